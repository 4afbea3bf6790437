/**
 * What a tokenizer costs the event loop: the load of a large vocabulary (made up, or a folder's), how long the loop was
 * held by it, and the time from a text to its tokens.
 *
 *   node bench/node/tokenizer.mjs [folder] [--vocabulary 150000] [--long 100000] [--runs 200]
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { loadTokenizer } from '../../dist/index.js'
import { makeVocabulary } from './vocabulary.mjs'
import { closeWatch, watch } from './watch.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    vocabulary: { type: 'string', default: '150000' },
    long: { type: 'string', default: '100000' },
    runs: { type: 'string', default: '200' },
    help: { type: 'boolean' },
  },
})
if (values.help) {
  console.log('node bench/node/tokenizer.mjs [folder] [--vocabulary N] [--long CHARACTERS] [--runs N]')
  process.exit(0)
}

/** How long something took, and how late a 1 ms timer was meanwhile, less the time in which others had the processor. */
async function measured(action) {
  const stop = watch()
  const began = performance.now()
  const result = await action()
  const ms = performance.now() - began
  return { result, ms, held: stop().own.max ?? 0 }
}

const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]

const temporary = await mkdtemp(join(tmpdir(), 'millrace-bench-'))
try {
  const folder = positionals[0] ?? temporary
  if (!positionals[0]) {
    const tokenizer = JSON.stringify(makeVocabulary(Number(values.vocabulary)))
    await writeFile(join(folder, 'tokenizer.json'), tokenizer)
    console.log(`tokenizer.json of ${values.vocabulary} tokens, ${(tokenizer.length / 1e6).toFixed(1)} MB`)
  }
  const first = await measured(() => loadTokenizer(folder))
  const again = await measured(() => loadTokenizer(folder))
  console.log(`load         ${first.ms.toFixed(0)} ms, the loop held ${first.held.toFixed(1)} ms`)
  console.log(`load again   ${again.ms.toFixed(0)} ms, the loop held ${again.held.toFixed(1)} ms`)
  again.result.close()
  const tokenizer = first.result
  const sentence = 'Once upon a time, there was a little fox. '
  const times = []
  for (let run = 0; run < Number(values.runs); run++) {
    const began = performance.now()
    await tokenizer.encode(sentence)
    times.push(performance.now() - began)
  }
  times.sort((a, b) => a - b)
  console.log(
    `${sentence.length} characters: p50 ${quantile(times, 0.5).toFixed(3)} ms, p99 ${quantile(times, 0.99).toFixed(3)} ms`,
  )
  const long = sentence.repeat(Math.ceil(Number(values.long) / sentence.length))
  const { result, ms, held } = await measured(() => tokenizer.encode(long))
  console.log(
    `${long.length} characters: ${result.length} tokens, ${ms.toFixed(0)} ms, the loop held ${held.toFixed(1)} ms`,
  )
  const decoding = performance.now()
  tokenizer.decode(result)
  console.log(`decode of these: ${(performance.now() - decoding).toFixed(1)} ms`)
  tokenizer.close()
  closeWatch()
} finally {
  await rm(temporary, { recursive: true })
}
