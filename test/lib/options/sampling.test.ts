/**
 * The table of options, and all that follows from it. MILLRACE_WRITE_TABLES=1 writes the table of docs/API.md anew from
 * the rows.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import ts from 'typescript'
import { describe, expect, test } from 'vitest'
import { addon, packageRoot } from '../../../lib/binding.ts'
import { addSamplingFlags, samplingOptions } from '../../../lib/cli/options.ts'
import { type GenerateOptions, generateOptions } from '../../../lib/options/request.ts'
import { answerRows, nativeSampling, type OptionRow } from '../../../lib/options/sampling.ts'

const rows = Object.entries<OptionRow>(answerRows)
const native = rows.filter(([, row]) => row.native)

/** The comment above each row of sampling.ts. */
function comments(): Map<string, string> {
  const path = join(packageRoot(), 'lib', 'options', 'sampling.ts')
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest, true)
  const found = new Map<string, string>()
  const visit = (node: ts.Node): void => {
    if (ts.isPropertyAssignment(node) && ts.isIdentifier(node.name)) {
      const [comment] = ts.getJSDocCommentsAndTags(node)
      const text = comment && ts.getTextOfJSDocComment(comment.comment)
      if (text) found.set(node.name.text, text.replace(/\s+/g, ' '))
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

/** As the document's other tables have it. */
const asCell = (text: string) => text[0]!.toLowerCase() + text.slice(1).replace(/\.$/, '')

const HEAD = '| option | default | |\n|---|---|---|\n'

function table(): string {
  const texts = comments()
  const lines = rows.map(([name, { default: value, otherwise }]) => {
    const fallback = otherwise ?? (value === undefined ? '' : `\`${typeof value === 'string' ? `'${value}'` : value}\``)
    return `| \`${name}\` | ${fallback} | ${asCell(texts.get(name)!)} |`
  })
  const signal = '| `signal` | | rejects iteration and result with an `AbortError` whose code is `ABORTED` |'
  return `${HEAD}${[...lines, signal].join('\n').replaceAll('|  |', '| |')}\n`
}

test('docs/API.md has the table that the rows make', () => {
  const path = join(packageRoot(), 'docs', 'API.md')
  const text = readFileSync(path, 'utf8')
  const section = text.indexOf('## model.generate(')
  const begin = text.indexOf(HEAD, section)
  const end = text.indexOf('\n\n', begin) + 1
  if (process.env.MILLRACE_WRITE_TABLES === '1') writeFileSync(path, text.slice(0, begin) + table() + text.slice(end))
  else expect(text.slice(begin, end)).toBe(table())
})

test('the engine reads what the rows say that it reads, and nothing else', () => {
  expect(addon().samplingOptions().sort()).toEqual(native.map(([name]) => name).sort())
})

test('every row has a text, a type of its own and a default that its schema takes', () => {
  const texts = comments()
  for (const [name, { schema, default: value }] of rows) {
    expect(texts.get(name), name).toMatch(/^[A-Z0-9].*\.$/)
    expect(generateOptions.shape, name).toHaveProperty(name)
    if (value !== undefined) expect(schema.safeParse(value), name).toMatchObject({ success: true })
    // Nothing of another type passes.
    expect(schema.safeParse(Symbol('none')).success, name).toBe(false)
  }
  for (const [name, row] of native) expect(row.default, name).toBeTypeOf('number')
})

test('types are those of the schemas, and lists may be read-only', () => {
  const options = {
    stop: ['a'] as const,
    stopTokens: [1] as const,
    logitBias: new Map([[1, 2]]) as ReadonlyMap<number, number>,
    truncate: 'middle',
    seed: undefined,
    deadlineMs: 5,
  } satisfies GenerateOptions
  expect(generateOptions.safeParse(options)).toMatchObject({ success: true })
  const wrong: GenerateOptions[] = [
    // @ts-expect-error: no such place
    { truncate: 'end' },
    // @ts-expect-error: no text
    { topK: '5' },
    // @ts-expect-error: no such option
    { top_k: 5 },
  ]
  for (const one of wrong) expect(generateOptions.safeParse(one).success).toBe(false)
})

test('names in requests over HTTP are those of OpenAI and vLLM, each once', () => {
  const wire = rows.flatMap(([, row]) => row.wire ?? [])
  expect(new Set(wire).size).toBe(wire.length)
  expect(wire).toEqual(
    expect.arrayContaining(
      'max_tokens temperature top_k top_p min_p typical_p repetition_penalty presence_penalty frequency_penalty logit_bias seed stop stop_token_ids ignore_eos logprobs top_logprobs priority'.split(
        ' ',
      ),
    ),
  )
})

test('the engine gets what the caller named, and the defaults of the rest', () => {
  expect(nativeSampling({})).toEqual(Object.fromEntries(native.map(([name, row]) => [name, row.default])))
  const named = Object.fromEntries(native.map(([name], index) => [name, 0.01 * (index + 1)]))
  expect(nativeSampling(named)).toEqual(named)
  expect(nativeSampling({ topP: 0, temperature: undefined })).toMatchObject({ topP: 0, temperature: 0 })
})

describe('flags', () => {
  const parse = (json: boolean, ...words: string[]) => {
    const command = addSamplingFlags(new Command().exitOverride(), { json }).configureOutput({ writeErr() {} })
    command.parse(words, { from: 'user' })
    return JSON.parse(
      JSON.stringify(samplingOptions(command.opts()), (_, value) => (value instanceof Map ? [...value] : value)),
    )
  }

  test('every option but the signal has one, which becomes the option', () => {
    const words: Record<string, string[]> = {
      '--truncate': ['middle'],
      '--logit-bias': ['7=-5'],
      '--ignore-eos': [],
      '--logprobs': [],
    }
    for (const [name, { flag }] of rows) {
      const [long] = flag!.form.split(' ')
      const given = words[long!] ?? ['1']
      const expected: Record<string, unknown> = {
        truncate: 'middle',
        logitBias: [[7, -5]],
        ignoreEos: true,
        logprobs: true,
        stop: ['1'],
        stopTokens: [1],
      }
      expect(parse(true, long!, ...given), name).toEqual({ [name]: expected[name] ?? 1 })
    }
  })

  test('lists grow, nonsense is refused, and those for JSON are not everywhere', () => {
    expect(parse(false, '--stop', 'a', '--stop', 'b', '--stop-token', '1', '--stop-token', '2')).toEqual({
      stop: ['a', 'b'],
      stopTokens: [1, 2],
    })
    expect(parse(false, '--logit-bias', '1=2', '--logit-bias', '3=-Infinity')).toMatchObject({
      logitBias: [
        [1, 2],
        [3, null],
      ],
    })
    expect(() => parse(false, '--top-k', 'many')).toThrow(/Expected a number/)
    expect(() => parse(false, '--logit-bias', '1')).toThrow(/Expected <token id>=<number>/)
    expect(() => parse(false, '--truncate', 'end')).toThrow(/none, start, middle/)
    expect(() => parse(false, '--top-p', '2')).toThrow(/for topP but received 2/)
    expect(() => parse(false, '--logprobs')).toThrow(/unknown option/)
  })
})
