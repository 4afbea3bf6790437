/** Texts that take the tokenizer's thread long: what their callers, and those of other texts, get meanwhile. */
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { loadTokenizer } from '../../../lib/text/tokenizer/load.ts'
import { build } from '../../built.ts'
import { MODELS } from '../../models.ts'

// The thread is the built package's.
beforeAll(build)

/** Takes the thread far longer than another needs to start. */
const LONG = 'a'.repeat(30_000_000)
const HUGE = 'Once upon a time '.repeat(150_000)
const TEXT = 'Once upon a time'
const TOKENS = [0, 559, 590, 259, 433]

test('one that is aborted gives way to those that wait, which are answered', async () => {
  await using tokenizer = await loadTokenizer(join(MODELS, 'demo'))
  expect([...(await tokenizer.encode(TEXT))]).toEqual(TOKENS)
  const leaver = new AbortController()
  const slow = tokenizer.encode(LONG, { signal: leaver.signal })
  const others = Array.from({ length: 40 }, () => tokenizer.encode(TEXT))
  setTimeout(() => leaver.abort(), 50)
  await expect(slow).rejects.toMatchObject({ code: 'ABORTED' })
  for (const tokens of await Promise.all(others)) expect([...tokens]).toEqual(TOKENS)
})

test('so does one that is aborted while it waits behind another, and comes first once that is gone', async () => {
  await using tokenizer = await loadTokenizer(join(MODELS, 'demo'))
  const leaver = new AbortController()
  const slow = [0, 1, 2].map(() => tokenizer.encode(LONG, { signal: leaver.signal }).catch(({ code }) => code))
  const other = tokenizer.encode(TEXT)
  leaver.abort()
  expect(await Promise.all(slow)).toEqual(['ABORTED', 'ABORTED', 'ABORTED'])
  expect([...(await other)]).toEqual(TOKENS)
})

test('one that is waited for holds up none that is far shorter', async () => {
  await using tokenizer = await loadTokenizer(join(MODELS, 'demo'))
  const order: string[] = []
  const encode = async (name: string, text: string) => {
    const tokens = await tokenizer.encode(text)
    order.push(name)
    return tokens
  }
  const huge = encode('huge', HUGE)
  const long = encode('long', 'Once upon a time '.repeat(6_000))
  const chat = tokenizer.encodeChat([{ role: 'user', content: 'Hi' }]).then(() => order.push('chat'))
  const short = await encode('short', TEXT)
  await chat
  expect([...short]).toEqual(TOKENS)
  // They begin alike, but for the last token of the shorter one.
  const common = (await long).length - 1
  expect((await huge).slice(0, common)).toEqual((await long).slice(0, common))
  expect(tokenizer.decode(await huge)).toBe(HUGE)
  expect([order.slice(0, 2).sort(), order.slice(2)]).toEqual([
    ['chat', 'short'],
    ['long', 'huge'],
  ])
}, 180_000)

test('one that ends within the grace costs the others nothing', async () => {
  await using tokenizer = await loadTokenizer(join(MODELS, 'demo'))
  const leavers = Array.from({ length: 20 }, () => new AbortController())
  const left = leavers.map(({ signal }) => tokenizer.encode(TEXT, { signal }).catch(({ code }) => code))
  const other = tokenizer.encode(TEXT)
  for (const leaver of leavers) leaver.abort()
  expect(new Set(await Promise.all(left))).toEqual(new Set(['ABORTED']))
  expect([...(await other)]).toEqual(TOKENS)
})
