/** The tokenizers' thread, in programs of their own. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { build, ROOT } from '../../built.ts'
import { MODELS } from '../../models.ts'
import { temporaryFolder } from '../folder.ts'
import { INDEX, program } from '../program.ts'

beforeAll(build)

/** Keeps every worker thread that the package starts in `threads`. */
const WATCHED = `
import { once } from 'node:events'
import { syncBuiltinESMExports } from 'node:module'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import workers from 'node:worker_threads'
import { setTimeout as sleep } from 'node:timers/promises'
const threads = []
const { Worker } = workers
workers.Worker = class extends Worker {
  constructor(...args) {
    super(...args)
    this.ended = once(this, 'exit')
    threads.push(this)
  }
}
syncBuiltinESMExports()
const allEnded = async () => {
  const alive = setInterval(() => {}, 1000)
  await Promise.all(threads.map((thread) => thread.ended))
  clearInterval(alive)
}
const { loadTokenizer } = millrace
`

async function printed(body: string, flags?: string[]): Promise<string[]> {
  const { code, stdout, stderr } = await program(WATCHED + body, flags)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout.trim().split('\n')
}

/** The demo's tokenizer with another chat template. */
function withTemplate(template: string): Promise<string> {
  const file = (name: string) => readFileSync(join(MODELS, 'demo', name))
  return temporaryFolder({
    'tokenizer.json': file('tokenizer.json'),
    'tokenizer_config.json': file('tokenizer_config.json'),
    'chat_template.jinja': template,
  })
}

describe('loadTokenizer', () => {
  test('needs the tokenizer’s files alone', async () => {
    const folder = await temporaryFolder({ 'tokenizer.json': readFileSync(join(MODELS, 'demo', 'tokenizer.json')) })
    const [encoded, plain, decoded, ids] = await printed(`
const tokenizer = await loadTokenizer(${JSON.stringify(folder)})
const tokens = await tokenizer.encode('Once upon a time')
console.log(tokens instanceof Int32Array, ...tokens)
console.log(...(await tokenizer.encode('Once upon a time', { specialTokens: false })))
console.log(tokenizer.decode(tokens))
console.log(tokenizer.idOf('<|user|>'), tokenizer.idOf('Once'), tokenizer.idOf('nothing like it'))`)
    expect([encoded, plain, decoded, ids]).toEqual([
      'true 0 559 590 259 433',
      '559 590 259 433',
      'Once upon a time',
      '1 559 undefined',
    ])
  })

  test('has the chat’s tokens, or says why not', async () => {
    const broken = await withTemplate('{% if %}')
    expect(
      await printed(`
const messages = [{ role: 'user', content: 'Hi' }]
const tokenizer = await loadTokenizer(demo)
console.log(tokenizer.decode(await tokenizer.encodeChat(messages)), (await tokenizer.encodeChat(messages)).length > 2)
const of = async (folder) => (await loadTokenizer(folder)).encodeChat(messages).catch(({ code }) => code)
console.log(await of(stories), await of(${JSON.stringify(broken)}))
tokenizer.close()
console.log(await tokenizer.encode('x').catch(({ code }) => code), tokenizer.decode([559]), tokenizer.idOf('Once'))`),
    ).toEqual(['Hi true', 'CHAT_TEMPLATE_MISSING CHAT_TEMPLATE_INVALID', 'MODEL_CLOSED Once 559'])
  })

  test('refuses what is none, and texts that are none', async () => {
    expect(
      await printed(`
const refusal = (promise) => promise.then(() => 'none', ({ code }) => code)
const tokenizer = await loadTokenizer(demo)
console.log(await refusal(loadTokenizer('/nowhere')), await refusal(loadTokenizer(5)), await refusal(loadTokenizer(demo, { signal: AbortSignal.abort() })))
console.log(await refusal(tokenizer.encode(5)), await refusal(tokenizer.encode('x'.repeat(2 ** 26 + 1))), await refusal(tokenizer.encode('x', false)), await refusal(tokenizer.encodeChat('x')))
const wrong = [{ specialToken: false }, { specialTokens: 1 }, { signal: 5 }, null]
console.log(...(await Promise.all(wrong.map((options) => refusal(tokenizer.encode('x', options))))))
console.log(await refusal(loadTokenizer(demo, { signal: 5 })), await refusal(loadTokenizer(demo, { sginal: undefined })), await refusal(loadTokenizer(demo, null)))
console.log(...['x', new BigInt64Array([1n]), new DataView(new ArrayBuffer(4))].map((tokens) => { try { tokenizer.decode(tokens) } catch ({ code }) { return code } }))
tokenizer.close()`),
    ).toEqual([
      'TOKENIZER_INVALID INVALID_ARGUMENT ABORTED',
      'INVALID_ARGUMENT INVALID_ARGUMENT INVALID_ARGUMENT INVALID_ARGUMENT',
      'INVALID_ARGUMENT INVALID_ARGUMENT INVALID_ARGUMENT INVALID_ARGUMENT',
      'INVALID_ARGUMENT INVALID_ARGUMENT INVALID_ARGUMENT',
      'INVALID_ARGUMENT INVALID_ARGUMENT INVALID_ARGUMENT',
    ])
  })

  test('what its files have wrong is never a fault of the package', async () => {
    const model = { type: 'BPE', vocab: { a: 0 }, merges: [] }
    const normalizer = { type: 'Sequence', normalizers: 5 }
    const parts = await temporaryFolder({ 'tokenizer.json': { model, normalizer } })
    const unreadable = await temporaryFolder({ 'tokenizer.json/a': '' })
    const folders = JSON.stringify([parts, unreadable])
    expect(
      await printed(
        `for (const folder of ${folders}) console.log(await loadTokenizer(folder).catch(({ code }) => code))`,
      ),
    ).toEqual(['TOKENIZER_INVALID', 'TOKENIZER_INVALID'])
  })
})

describe('the thread', () => {
  test('is one for all, and ends when nobody has used it for a while', async () => {
    const copy = await withTemplate(readFileSync(join(MODELS, 'demo', 'README.md'), 'utf8'))
    expect(
      await printed(`
const [one, same, other] = await Promise.all([demo, demo, ${JSON.stringify(copy)}].map((folder) => loadTokenizer(folder)))
const third = await loadTokenizer(stories)
console.log(threads.length, (await one.encode('Once')).length, (await third.encode('Once')).length)
for (const tokenizer of [one, other, third]) tokenizer.close()
one.close()
console.log((await same.encode('Once')).length)
same.close()
const soon = await loadTokenizer(demo)
console.log(threads.length, (await soon.encode('Once')).length)
soon.close()
await allEnded()
const again = await loadTokenizer(demo)
console.log(threads.length, (await again.encode('Once')).length)`),
    ).toEqual(['1 2 2', '2', '1 2', '2 2'])
  })

  test('has others beside it for long texts, by their size, which end with the last user too', async () => {
    expect(
      await printed(`
const tokenizer = await loadTokenizer(demo)
const lengths = []
for (const characters of [2 ** 16, 2 ** 16 + 1, 2 ** 20, 2 ** 20 + 1]) {
  await tokenizer.encode('x '.repeat(characters / 2 + 1).slice(0, characters))
  lengths.push(threads.length)
}
const content = 'x '.repeat(40000)
await tokenizer.encodeChat([{ role: 'user', content }])
tokenizer.close()
await allEnded()
console.log(...lengths, threads.length)`),
    ).toEqual(['1 2 2 3 3'])
  })

  test('ends when all that used it are forgotten', async () => {
    expect(
      await printed(`
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')
const use = async () => {
  const tokenizer = await loadTokenizer(demo)
  return (await tokenizer.encode('Once')).length
}
console.log((await Promise.all([use(), use(), use()])).join())
let ended = false
threads[0].ended.then(() => { ended = true })
for (let tries = 0; tries < 1000 && !ended; tries++) {
  await sleep(5)
  collect()
}
console.log(threads.length, ended)`),
    ).toEqual(['2,2,2', '1 true'])
  })

  test('that dies fails what it was at; another one does the rest', async () => {
    expect(
      await printed(`
const [a, b] = [await loadTokenizer(demo), await loadTokenizer(stories)]
const words = 'Once upon a time there was a boat. '.repeat(2000)
const expected = await b.encode(words)
const long = a.encode('Once upon a time there was a boat. '.repeat(25000)).then(() => 'tokens', ({ code }) => code)
const rest = Promise.all(Array.from({ length: 20 }, () => b.encode(words)))
await threads[1].terminate()
console.log(await long, (await rest).every((tokens) => String(tokens) === String(expected)), threads.length)
await threads[0].terminate()
await sleep(10)
const short = await a.encode('Once upon a time')
console.log(String(await b.encode(words)) === String(expected), short.length, threads.length)`),
    ).toEqual(['INTERNAL true 3', 'true 5 4'])
  })

  test('that takes another one’s place does not take other files for those that were loaded', async () => {
    const folder = await withTemplate('{{ messages[0].content }}')
    expect(
      await printed(`
import { writeFileSync } from 'node:fs'
const tokenizer = await loadTokenizer(${JSON.stringify(folder)})
writeFileSync(${JSON.stringify(join(folder, 'chat_template.jinja'))}, 'another')
await threads[0].terminate()
await sleep(10)
console.log(await tokenizer.encode('Once').catch(({ code, message }) => code + /not those that were loaded/.test(message)), tokenizer.decode([559]))`),
    ).toEqual(['TOKENIZER_INVALIDtrue Once'])
  })

  test('is lost to a template without end, and to nobody’s texts', async () => {
    const folder = await withTemplate(
      '{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}',
    )
    expect(
      await printed(`
const [hostile, other] = [await loadTokenizer(${JSON.stringify(folder)}), await loadTokenizer(stories)]
const chat = hostile.encodeChat([{ role: 'user', content: 'Hi' }]).catch(({ code }) => code)
const texts = Promise.all(Array.from({ length: 50 }, () => other.encode('Once upon a time')))
console.log(await chat, new Set((await texts).map(String)).size, (await texts).length, (await hostile.encode('Once')).length)`),
    ).toEqual(['CHAT_TEMPLATE_INVALID 1 50 2'])
  })

  test('an abort reaches a text that waits for it, and so does close()', async () => {
    expect(
      await printed(`
const [a, b] = [await loadTokenizer(demo), await loadTokenizer(demo)]
const order = []
const note = (name) => (result) => order.push(name + (result.code ?? ''))
const controller = new AbortController()
const long = 'Once upon a time there was a boat. '.repeat(28000)
const first = a.encode(long).then(note('first'))
const aborted = a.encode(long, { signal: controller.signal }).catch(note('aborted '))
const closed = b.encode(long).catch(note('closed '))
const late = a.encode(long.slice(0, 100000)).then(note('late'))
controller.abort()
b.close()
await Promise.all([first, aborted, closed, late])
console.log(order.join())`),
    ).toEqual(['aborted ABORTED,closed MODEL_CLOSED,first,late'])
  })

  test('an abort ends a long text that the thread is at, and others do not wait for it', async () => {
    expect(
      await printed(`
const tokenizer = await loadTokenizer(demo)
const words = 'Once upon a time there was a boat. '
const began = performance.now()
await tokenizer.encode(words.repeat(15000))
const halfMillionMs = performance.now() - began
const controller = new AbortController()
const long = tokenizer.encode(words.repeat(800000), { signal: controller.signal }).catch(({ code }) => code)
await new Promise((resolve) => setTimeout(resolve, 100))
const aborted = performance.now()
controller.abort()
const code = await long
const settledMs = performance.now() - aborted
const { length } = await tokenizer.encode('Once upon a time')
// The rest of the text would take more than 50 times as long as the first one.
console.log(code, settledMs < 5 * halfMillionMs, length, performance.now() - aborted < 20 * halfMillionMs + 5000)`),
    ).toEqual(['ABORTED true 5 true'])
  }, 120_000)

  test('does not keep a process alive, and its work does', async () => {
    expect(
      await printed(`
const tokenizer = await loadTokenizer(demo)
tokenizer.encode('Once upon a time').then(({ length }) => console.log(length))`),
    ).toEqual(['5'])
  })

  test('starts whatever the process was started with, and within a worker', async () => {
    expect(
      await printed(
        `
const main = await loadTokenizer(demo)
const source = 'const { loadTokenizer } = await import(' + JSON.stringify(${INDEX}) + ');' +
  'const tokenizer = await loadTokenizer(' + JSON.stringify(demo) + ');' +
  'const { parentPort } = await import("node:worker_threads");' +
  'parentPort.postMessage((await tokenizer.encode("Once upon a time")).length)'
const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(source)))
const [[length]] = await Promise.all([once(worker, 'message'), once(worker, 'exit')])
console.log(length, (await main.encode('Once')).length)`,
        ['--expose-gc', '--stack-size=2000'],
      ),
    ).toEqual(['5 2'])
  })
})

test('the main thread parses no tokenizer: 150,000 tokens cost it next to nothing', async () => {
  const { makeVocabulary } = (await import(pathToFileURL(join(ROOT, 'bench', 'node', 'vocabulary.mjs')).href)) as {
    makeVocabulary: (size: number) => object
  }
  const folder = await temporaryFolder({ 'tokenizer.json': JSON.stringify(makeVocabulary(150_000)) })
  const [tokens, busy] = await printed(`
import { readFileSync } from 'node:fs'
// Of this thread alone, and of its own work: what other threads and processes do is not in it.
const processorMs = () => Number(readFileSync('/proc/self/task/' + process.pid + '/schedstat', 'latin1').split(' ')[0]) / 1e6
;(await loadTokenizer(demo)).close()
const before = processorMs()
const tokenizer = await loadTokenizer(${JSON.stringify(folder)})
const spent = processorMs() - before
console.log(tokenizer.idOf('Ġ') === 32, (await tokenizer.encode('Once upon a time')).length > 4)
console.log(spent)`)
  expect(tokens).toBe('true true')
  // It was several hundred.
  expect(Number(busy)).toBeLessThan(60)
})
