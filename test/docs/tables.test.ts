/** Tables of the documents beside what they are tables of: options, flags, endpoints, fields of requests, metrics, errors. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { fastify } from 'fastify'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { serveCommand } from '../../lib/cli/serve.ts'
import { ERRORS } from '../../lib/errors.ts'
import { loadOptions } from '../../lib/options/model.ts'
import { chatOptions, embedOptions, generateOptions } from '../../lib/options/request.ts'
import { answerRows, type OptionRow } from '../../lib/options/sampling.ts'
import { speculation } from '../../lib/options/speculation.ts'
import { millraceServer } from '../../lib/server/index.ts'
import { chatSchema } from '../../lib/server/openai/chat_request.ts'
import { completionSchema } from '../../lib/server/openai/completions.ts'
import { embeddingSchema } from '../../lib/server/openai/embeddings.ts'
import { serverSchema, serveSchema } from '../../lib/server/options.ts'
import { ROOT } from '../built.ts'
import { MODELS } from '../models.ts'

const read = (name: string) => readFileSync(join(ROOT, 'docs', name), 'utf8')
const serveDocument = read('SERVE.md')
const api = read('API.md')

/** The first table behind a heading: its rows, cell by cell, without the head. */
function tableOf(document: string, heading: string): string[][] {
  const at = document.indexOf(`\n${heading}\n`)
  expect(at, heading).toBeGreaterThan(-1)
  const lines = document.slice(at + heading.length + 2).split('\n')
  const begin = lines.findIndex((line) => line.startsWith('|'))
  const length = lines.slice(begin).findIndex((line) => !line.startsWith('|'))
  return lines
    .slice(begin, length < 0 ? undefined : begin + length)
    .map(cellsOf)
    .slice(2)
}

const cellsOf = (line: string) => line.split(/(?<!\\)\|/).slice(1, -1)
const codes = (cell = '') => [...cell.matchAll(/`([^`]+)`/g)].map(([, code]) => code!)
const sorted = (names: Iterable<string>) => [...new Set(names)].sort()

describe('SERVE.md', () => {
  const rows = tableOf(serveDocument, '## Options')

  test('has every option of serve(), and no other; those that the plugin has not are marked', () => {
    const named = rows.flatMap(([cell]) => codes(cell))
    expect(sorted(named)).toEqual(sorted(Object.keys(serveSchema.shape)))
    const marked = rows.filter(([cell]) => cell!.includes('(serve)')).flatMap(([cell]) => codes(cell))
    const apart = Object.keys(serveSchema.shape).filter((name) => !(name in serverSchema.shape))
    expect(sorted(marked)).toEqual(sorted(apart))
  })

  test('has every flag of the command that is none of load()', () => {
    const command = serveCommand({} as never) as Command
    const flags = command.options.map(({ long }) => long!)
    const named = rows.flatMap(([, cell]) => codes(cell)).filter((word) => word.startsWith('--'))
    for (const flag of named) expect(flags).toContain(flag)
    // Names of the config file and of load() that are told elsewhere.
    const elsewhere = [
      ...Object.keys(loadOptions.shape).map((name) => `--${dashed(name)}`),
      ...['--config', '--context', '--no-co-execute', '--no-cache'],
    ]
    expect(sorted(flags.filter((flag) => !named.includes(flag) && !elsewhere.includes(flag)))).toEqual([])
  })

  describe('names what the server has', () => {
    const app = fastify()
    const routes: string[] = []
    beforeAll(async () => {
      app.addHook('onRoute', ({ method, path }) => {
        for (const one of [method].flat()) if (one !== 'HEAD') routes.push(`${one} ${path}`)
      })
      await app.register(millraceServer, { models: { demo: join(MODELS, 'demo') }, lazy: true })
      await app.ready()
    }, 60_000)
    afterAll(() => app.close())

    test('endpoints', () => {
      const named = tableOf(serveDocument, '## Endpoints').flatMap(([cell]) => {
        let method = ''
        return codes(cell).map((code) => {
          const [, verb, path] = /^(?:(GET|POST) )?(\S+)$/.exec(code)!
          method = verb ?? method
          return `${method} ${path!.replace('<name>', '*')}`
        })
      })
      // The page is an option's.
      expect(sorted([...named, 'GET /', 'GET /live'])).toEqual(sorted(routes))
    })

    test('metrics', async () => {
      const text = (await app.inject('/metrics')).body
      const found = [...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name!)
      const named = tableOf(serveDocument, '## Metrics').flatMap(([cell]) => codes(cell))
      expect(sorted(named)).toEqual(sorted(found))
    })
  })

  test('has every field of requests that is not passed over', () => {
    const [endpoints, errors] = ['## Endpoints', '## Errors'].map((heading) => serveDocument.indexOf(heading))
    const text = serveDocument.slice(endpoints, errors)
    // What everybody sends, and what one word names.
    const told = ['messages', 'prompt', 'input', 'model', 'user', 'presence_penalty', 'frequency_penalty']
    const wires = Object.values<OptionRow>(answerRows).flatMap(({ wire }) => wire ?? [])
    const shapes = [chatSchema, completionSchema, embeddingSchema].map(({ shape }) => Object.keys(shape))
    for (const name of [...wires, ...shapes.flat()]) {
      if (!told.includes(name)) expect(text, name).toContain(`\`${name}\``)
    }
    expect(text).toContain('penalties')
  })
})

const dashed = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

describe('API.md', () => {
  test.each([
    ['## load(path, options?) → Promise&lt;Model&gt;', Object.keys(loadOptions.shape)],
    [
      '## model.generate(prompt, options?) and model.chat(messages, options?) → Generation',
      Object.keys(generateOptions.shape).filter((name) => name !== 'constraint' && name !== 'speculation'),
    ],
    ['### Chats with tools', Object.keys(chatOptions.shape).filter((name) => !(name in generateOptions.shape))],
    ['### Speculation', Object.keys(speculation.shape)],
    ['## model.embed(texts, options?) → Promise', Object.keys(embedOptions.shape)],
    ['## MillraceError', Object.keys(ERRORS)],
  ])('the table of %s has all of it and nothing else', (heading, names) => {
    expect(sorted(tableOf(api, heading).flatMap(([cell]) => codes(cell)))).toEqual(sorted(names))
  })

  test('cells are short', () => {
    const cells = api
      .split('\n')
      .filter((line) => line.startsWith('|'))
      .flatMap(cellsOf)
    expect(cells.filter((cell) => cell.length > 210)).toEqual([])
  })

  test('links within it lead somewhere', () => {
    const anchors = api
      .split('\n')
      .filter((line) => /^#+ /.test(line))
      .map((line) =>
        line
          .replace(/^#+ /, '')
          .toLowerCase()
          .replace(/[^\w\- ]/g, '')
          .replaceAll(' ', '-'),
      )
    for (const [, anchor] of api.matchAll(/\]\(#([^)]+)\)/g)) expect(anchors).toContain(anchor)
  })
})
