import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MillraceError } from '../../../lib/errors.ts'
import { closeOptions, inspectOptions, loadOptions, planOptions } from '../../../lib/options/model.ts'
import { chatMessages, embedOptions, generateOptions, scoreOptions } from '../../../lib/options/request.ts'
import { nearest, parseBytes, validate } from '../../../lib/options/validate.ts'

const refusal = (call: () => unknown): MillraceError => {
  try {
    call()
  } catch (error) {
    expect(error).toBeInstanceOf(MillraceError)
    return error as MillraceError
  }
  throw new Error('expected a refusal')
}

describe('options', () => {
  test('names a misspelt option and the one that was likely meant', () => {
    const error = refusal(() => validate(generateOptions, { maxToken: 5 }, 'options'))
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toBe("unknown option 'maxToken' in options, did you mean 'maxTokens'?")
    expect(error.remedy).toContain('temperature')
    for (const [wrong, right] of [
      ['max_tokens', 'maxTokens'],
      ['topp', 'topP'],
      ['Temperature', 'temperature'],
      ['temprature', 'temperature'],
    ]) {
      expect(refusal(() => validate(generateOptions, { [wrong!]: 1 }, 'options')).message).toContain(`'${right}'?`)
    }
    expect(refusal(() => validate(loadOptions, { gpuLayers: 5 }, 'options')).message).toBe(
      "unknown option 'gpuLayers' in options",
    )
  })

  test.each([
    [
      generateOptions,
      { temperature: 'hot' },
      "expected a number from 0 to 100 for temperature but received 'hot' of type string",
    ],
    [
      generateOptions,
      { temperature: Number.NaN },
      'expected a number from 0 to 100 for temperature but received NaN of type number',
    ],
    [
      generateOptions,
      { maxTokens: 0 },
      'expected an integer from 1 to 134217728 for maxTokens but received 0 of type number',
    ],
    [
      generateOptions,
      { maxTokens: 1.5 },
      'expected an integer from 1 to 134217728 for maxTokens but received 1.5 of type number',
    ],
    [generateOptions, { topP: 1.01 }, 'expected a number from 0 to 1 for topP but received 1.01 of type number'],
    [generateOptions, { seed: -1 }, 'expected an integer not below 0 for seed but received -1 of type number'],
    [
      generateOptions,
      { stop: 5 },
      'expected a text or an array of texts, none empty for stop but received 5 of type number',
    ],
    [generateOptions, { stop: [''] }, "expected a text that is not empty for stop[0] but received '' of type string"],
    [generateOptions, { stopTokens: ['a'] }, "for stopTokens[0] but received 'a' of type string"],
    [
      generateOptions,
      { logitBias: { hello: 1 } },
      'expected a Map or an object of numbers from -100 to 100, or -Infinity, by token id for logitBias',
    ],
    [generateOptions, { logitBias: { 5: 101 } }, 'for logitBias but received an object of type Object'],
    [generateOptions, { logitBias: new Map([[-1, 1]]) }, 'for logitBias but received an object of type Map'],
    [generateOptions, { logitBias: { '07': 1 } }, 'for logitBias but received an object of type Object'],
    [generateOptions, { logitBias: 3 }, 'for logitBias but received 3 of type number'],
    [generateOptions, { repetitionPenalty: 0 }, 'expected a number from 0.01 to 100 for repetitionPenalty'],
    [generateOptions, { topLogprobs: 65 }, 'expected an integer from 0 to 64 for topLogprobs'],
    [generateOptions, { truncate: 'end' }, "expected 'none', 'start' or 'middle' for truncate"],
    [generateOptions, { deadlineMs: 0 }, 'for deadlineMs but received 0 of type number'],
    [scoreOptions, { priority: 0.5 }, 'for priority but received 0.5 of type number'],
    [loadOptions, { maxQueue: 0 }, 'for maxQueue but received 0 of type number'],
    [loadOptions, { logger: { info() {} } }, 'an object with the functions debug, info, warn and error for logger'],
    [generateOptions, { signal: {} }, 'expected an AbortSignal for signal but received an object of type Object'],
    [
      loadOptions,
      { device: 'gpu' },
      "expected 'auto', 'cpu', 'cuda', 'cuda:<index>' or an array of GPUs for device but received 'gpu' of type string",
    ],
    [
      loadOptions,
      { device: ['cuda:0', 'cuda'] },
      "expected 'cuda:<index>' for device[1] but received 'cuda' of type string",
    ],
    [loadOptions, { device: [] }, "expected 'cuda:<index>' for device but received an empty array"],
    [loadOptions, { placement: 'disk' }, "for placement but received 'disk' of type string"],
    [loadOptions, { placement: ['auto'] }, 'for placement but received an array of 1'],
    [loadOptions, { ring: 0 }, 'expected an integer from 1 to 4096 for ring but received 0 of type number'],
    [
      loadOptions,
      { ring: 'lots' },
      "expected a number of units from 1 to 4096 or a size such as '256MiB' (units are B, KB, MB, GB, TB and KiB, MiB, GiB, TiB) for ring but received 'lots' of type string",
    ],
    [
      loadOptions,
      { vramBudget: '120%' },
      "expected bytes, a size such as '6GiB' (units are B, KB, MB, GB, TB and KiB, MiB, GiB, TiB) or a share such as '80%' for vramBudget but received '120%' of type string",
    ],
    [loadOptions, { vramBudget: 0 }, 'expected an integer of at least 1 for vramBudget but received 0 of type number'],
    [loadOptions, { ramBudget: '0%' }, "for ramBudget but received '0%' of type string"],
    [loadOptions, { batch: 0 }, 'expected an integer from 1 to 65536 for batch but received 0 of type number'],
    [loadOptions, { ring: true }, 'TiB) for ring but received true of type boolean'],
    [loadOptions, { onProgress: true }, 'expected a function for onProgress but received true of type boolean'],
    [scoreOptions, { logits: 1 }, 'expected true or false for logits but received 1 of type number'],
    [closeOptions, null, 'expected an object for options but received null'],
    [generateOptions, [], 'expected an object for options but received an empty array'],
    [generateOptions, 'fast', "expected an object for options but received 'fast' of type string"],
  ])('says what was expected and received (%#)', (schema, value, message) => {
    expect(refusal(() => validate(schema, value, 'options')).message).toContain(message)
  })

  test.each([
    [[], 'an array of at least one message for messages but received an empty array'],
    ['hi', "for messages but received 'hi' of type string"],
    [['hi'], "for messages[0] but received 'hi' of type string"],
    [[{ role: 'user' }], 'expected a text for messages[0].content but received nothing'],
    [[{ role: 'assistant', content: null }], 'no tool_calls, for messages[0].content but received null'],
    [[{ role: 'user', content: [{ type: 'image_url' }] }], "for messages[0].content[0].type but received 'image_url'"],
    [[{ role: 'user', content: [{ type: 'text' }] }], "expected { type: 'text', text } for messages[0].content[0]"],
    [[{ role: 'assistant', tool_calls: [{ function: {} }] }], 'for messages[0].tool_calls[0].function.name'],
    [
      [{ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: 5 } }] }],
      'JSON or an object for messages',
    ],
    [
      [
        { role: 'user', content: 'a' },
        { role: 'assistant', reasoning: 5 },
      ],
      'for messages[1].reasoning',
    ],
  ])('messages of a chat (%#)', (value, message) => {
    expect(refusal(() => validate(chatMessages, value, 'messages')).message).toContain(message)
  })

  test('takes what is documented, undefined included', () => {
    const options = { maxTokens: 5, temperature: 0.7, topK: 0, topP: 1, minP: 0, seed: 2 ** 53 - 1, stop: ['a', 'b'] }
    expect(validate(generateOptions, options, 'options')).toEqual(options)
    expect(validate(generateOptions, { temperature: undefined, stop: 'x' }, 'options')).toEqual({ stop: 'x' })
    const forms = [
      { 7: -100, 9: Number.NEGATIVE_INFINITY },
      new Map([
        [7, -100],
        [9, Number.NEGATIVE_INFINITY],
      ]),
    ]
    for (const logitBias of forms) {
      expect(validate(generateOptions, { logitBias }, 'options').logitBias).toEqual([
        [7, -100],
        [9, Number.NEGATIVE_INFINITY],
      ])
    }
    validate(loadOptions, { logger: console, prefixReuse: false, deterministic: true, maxQueue: 5 }, 'options')
    validate(scoreOptions, { priority: -5, queueTimeoutMs: 100, deadlineMs: 2000 }, 'options')
    for (const device of ['auto', 'cpu', 'cuda', 'cuda:1']) validate(loadOptions, { device }, 'options')
    for (const ring of [1, 2, '256MiB', '1.5 GB']) validate(loadOptions, { ring }, 'options')
    validate(loadOptions, { placement: ['resident', 'streamed', 'cpu'], signal: AbortSignal.timeout(1) }, 'options')
  })

  test('an unknown key of any kind is refused as such', () => {
    fc.assert(
      fc.property(fc.string(), (key) => {
        fc.pre(!(key in generateOptions.shape) && key !== '__proto__')
        expect(refusal(() => validate(generateOptions, { [key]: 1 }, 'options')).message).toContain(
          `unknown option '${key}'`,
        )
      }),
    )
  })
})

describe('parseBytes', () => {
  test('units', () => {
    expect(parseBytes('256MiB')).toBe(256 * 1024 * 1024)
    expect(parseBytes('1.5 GB')).toBe(1_500_000_000)
    expect(parseBytes('7b')).toBe(7)
    expect(parseBytes('2kib')).toBe(2048)
    expect(parseBytes('1 TiB')).toBe(2 ** 40)
    expect(parseBytes('0.5TB')).toBe(5e11)
  })
  test('the refusal names the units: a bare letter may mean either', () => {
    for (const option of ['ring', 'vramBudget', 'ramBudget', 'arena']) {
      const error = refusal(() => validate(planOptions, { [option]: '2G' }, 'options'))
      expect(error.message).toMatch(/units are B, KB, MB, GB, TB and KiB, MiB, GiB, TiB.* but received '2G'/)
    }
  })
  test('refuses everything else', () => {
    for (const text of [
      '',
      '256',
      'MiB',
      '-1MiB',
      '1e3MiB',
      '0B',
      '512M',
      '2G',
      '2Gi',
      '1PB',
      '99999999999999999999GiB',
    ]) {
      expect(parseBytes(text), text).toBeUndefined()
    }
  })
})

test('nearest finds a word with one letter wrong, missing or doubled, and nothing for another word', () => {
  const names = ['temperature', 'maxTokens', 'placement', 'contextLength']
  fc.assert(
    fc.property(fc.constantFrom(...names), fc.nat(), fc.constantFrom('drop', 'double', 'swap'), (name, at, how) => {
      const index = 1 + (at % (name.length - 2))
      const letter = name[index]!
      const middle = how === 'drop' ? '' : how === 'double' ? letter + letter : 'q'
      expect(nearest(name.slice(0, index) + middle + name.slice(index + 1), names)).toBe(name)
    }),
  )
  expect(nearest('gpuLayers', names)).toBeUndefined()
})

test('docs/API.md has every option', () => {
  const text = readFileSync(new URL('../../../docs/API.md', import.meta.url), 'utf8')
  const schemas = [loadOptions, planOptions, generateOptions, scoreOptions, embedOptions, closeOptions, inspectOptions]
  for (const name of schemas.flatMap(({ shape }) => Object.keys(shape))) {
    // In a table, a list or an object of the text.
    expect(text, name).toMatch(new RegExp(`[\`{ ]${name}[\`,: ]`))
  }
})
