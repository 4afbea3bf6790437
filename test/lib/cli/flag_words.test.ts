import { expect, test } from 'vitest'
import { withFlags } from '../../../lib/cli/flag_words.ts'
import { ERRORS } from '../../../lib/errors.ts'

const flags = new Set([
  ...['--context', '--max-tokens', '--max-sequences', '--kv-tokens', '--kv-swap', '--ram-budget', '--vram-budget'],
  ...['--batch', '--offline', '--device', '--placement', '--queue-timeout', '--truncate', '--temperature', '--ring'],
])

test.each([
  [ERRORS.HUB_UNAVAILABLE, 'try again: what has come is kept; --offline uses what the cache has'],
  [ERRORS.DEVICE_UNAVAILABLE, 'use --device cpu, or see millrace probe for what was found'],
  [ERRORS.CONTEXT_OVERFLOW, 'shorten the prompt, lower --max-tokens, or load with a larger --context'],
  [
    "lower contextLength, maxSequences or kvTokens, use placement: 'auto', or raise vramBudget",
    'lower --context, --max-sequences or --kv-tokens, use --placement auto, or raise --vram-budget',
  ],
  [
    'lower contextLength, batch, maxSequences, kvTokens or kvSwap, raise ramBudget if the machine has more',
    'lower --context, --batch, --max-sequences, --kv-tokens or --kv-swap, raise --ram-budget if the machine has more',
  ],
  [
    'shorten the prompt, load with a larger contextLength, or pass truncate',
    'shorten the prompt, load with a larger --context, or pass --truncate',
  ],
  [
    'expected a number from 0 to 100 for temperature but received -1',
    'expected a number from 0 to 100 for --temperature but received -1',
  ],
  [
    "expected a path or an object such as { path: 'models/demo', contextLength: 4096 } for models.a but received 5 of type number",
    "expected a path or an object such as { path: 'models/demo', contextLength: 4096 } for models.a but received 5",
  ],
  // Other commands' options, fields of files and plain words stay.
  ['with a longer queueTimeoutMs, or retryAfterMs', 'with a longer --queue-timeout, or retryAfterMs'],
  ["config.json has contextLength.maximum, 'maxTokens' and a batch of files", undefined],
  ['load with a larger maxQueue', undefined],
])('%s', (text, expected) => {
  expect(withFlags(text, flags)).toBe(expected ?? text)
})
