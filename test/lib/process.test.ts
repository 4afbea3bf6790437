/** Programs of their own that use the built package: when they end, and what runs beside them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { build } from '../built.ts'
import { MODELS } from '../models.ts'
import { temporaryFolder } from './folder.ts'
import { INDEX, program } from './program.ts'

beforeAll(build)

test('an idle model does not keep the process alive', async () => {
  expect(await program(`await millrace.load(demo); console.log('loaded')`)).toEqual({
    code: 0,
    signal: null,
    stdout: 'loaded\n',
    stderr: '',
  })
})

test('neither does its tokenizer thread, whose pending work does', async () => {
  const { code, stdout, stderr } = await program(`
const model = await millrace.load(demo)
const long = 'Once upon a time there was a boat. '.repeat(60)
model.generate(long, { maxTokens: 1 }).result.then(({ usage }) => console.log(usage.promptTokens > 400))
await model.score(long)
model.chat([{ role: 'user', content: 'Hi' }], { maxTokens: 1 }).result.then(({ usage }) => console.log(usage))`)
  expect({ code, stdout, stderr }).toEqual({
    code: 0,
    stdout: expect.stringMatching(/^true\n\{ promptTokens: \d+, completionTokens: 1 \}\n$/),
    stderr: '',
  })
})

test('draining lets requests end whose prompt was still with the tokenizer', async () => {
  const { code, stdout, stderr } = await program(`
const model = await millrace.load(demo)
const long = 'Once upon a time there was a boat. '.repeat(60)
const answers = [
  model.generate(long, { maxTokens: 3, ignoreEos: true }).result.then(({ tokens }) => tokens.length),
  model.chat([{ role: 'user', content: long }], { maxTokens: 2, ignoreEos: true }).result.then(({ tokens }) => tokens.length),
  model.score(long).then(({ perplexity }) => perplexity > 1),
]
const closed = model.close({ drain: true })
const late = model.generate(long).result.catch((error) => error.code)
console.log(...(await Promise.all(answers)), await late)
await closed
const other = await millrace.load(demo)
const cut = other.generate(long).result.then(({ finishReason }) => finishReason)
const scored = other.score(long).catch((error) => error.code)
await other.close({ drain: false })
console.log(await cut, await scored)`)
  expect({ code, stdout, stderr }).toEqual({
    code: 0,
    stdout: '3 2 true MODEL_CLOSED\nabort MODEL_CLOSED\n',
    stderr: '',
  })
})

/** The demo with another chat template, as a folder of its own. */
async function withTemplate(template: string): Promise<string> {
  const files = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors']
  return temporaryFolder({
    ...Object.fromEntries(files.map((name) => [name, readFileSync(join(MODELS, 'demo', name))])),
    'chat_template.jinja': template,
  })
}

test.each([
  [
    'time',
    '{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}',
    /more than 2000000 steps/,
  ],
  [
    'memory',
    '{% set ns = namespace(list=[]) %}{% for a in range(9999) %}{% set ns.list = [ns.list, range(999999)] %}{% endfor %}',
    /has no end|steps|characters/,
  ],
])('a chat template without end stops at a limit, and stops nothing else (%s)', async (_, endless, message) => {
  const folder = await withTemplate(`{% if messages[0].content == 'endless' %}${endless}{% endif %}Once upon a time`)
  const { code, stdout, stderr } = await program(`
const model = await millrace.load(${JSON.stringify(folder)}, { contextLength: 256 })
const chat = (content) => model.chat([{ role: 'user', content }], { maxTokens: 9 }).result
const [failure, { text }] = await Promise.all([chat('endless').catch((error) => error), chat('Hi')])
console.log(failure.code, ${message}.test(failure.message), /^, there was a .*\\.$/.test(text))
console.log((await chat('Hi')).text === text)`)
  expect({ code, stdout, stderr }).toEqual({
    code: 0,
    stdout: 'CHAT_TEMPLATE_INVALID true true\ntrue\n',
    stderr: '',
  })
})

test('a pending request does, though nobody awaits it', async () => {
  const { code, stdout, stderr } = await program(`
const model = await millrace.load(demo, { placement: 'streamed' })
model.generate('Once upon a time', { maxTokens: 9 }).result.then(({ text }) => console.log(text))`)
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: ', there was a kind girl named Daisy.\n', stderr: '' })
})

test('a pending load does', async () => {
  const { code, stdout } = await program(`millrace.load(demo).then(() => console.log('loaded'))`)
  expect({ code, stdout }).toEqual({ code: 0, stdout: 'loaded\n' })
})

test('exiting in the middle of everything is clean', async () => {
  const { code, signal, stderr } = await program(`
const model = await millrace.load(demo, { placement: 'streamed' })
for (let i = 0; i < 3; i++) model.generate('The', { ignoreEos: true })
for await (const _ of model.generate('The', { ignoreEos: true })) process.exit(3)`)
  expect({ code, signal, stderr }).toEqual({ code: 3, signal: null, stderr: '' })
})

test('an unread failure is no unhandled rejection', async () => {
  const { code, stderr } = await program(`
const model = await millrace.load(demo)
model.generate([])
model.generate('x', { signal: AbortSignal.timeout(1) })`)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
})

test('long texts are tokenised beside the event loop, with the same tokens', async () => {
  const { code, stdout, stderr } = await program(`
const model = await millrace.load(demo, { contextLength: 1024 })
const text = 'Once upon a time there was a boat. '.repeat(3000)
let turns = 0
const timer = setInterval(() => turns++, 1)
const failure = await model.score(text).catch((error) => error)
clearInterval(timer)
const expected = (await model.tokenizer.encode(text)).length
console.log(failure.code, failure.message.includes('has ' + expected + ' tokens'), turns > 0)
const spaced = ' '.repeat(9000) + 'The'
const result = await model.generate(spaced, { maxTokens: 1 }).result.catch((error) => error)
console.log(result.code ?? result.usage.promptTokens === (await model.tokenizer.encode(spaced)).length)
await model.close()`)
  expect(stderr).toBe('')
  expect({ code, stdout }).toEqual({
    code: 0,
    stdout: expect.stringMatching(/^CONTEXT_OVERFLOW true true\n(true|CONTEXT_OVERFLOW)\n$/),
  })
})

test('worker threads load and answer for themselves, and can be ended while they do', async () => {
  const { code, signal, stdout, stderr } = await program(`
import { Worker, isMainThread } from 'node:worker_threads'
const source = \`import * as millrace from ${INDEX}
import { parentPort } from 'node:worker_threads'
const model = await millrace.load(\${JSON.stringify(demo)}, { placement: 'streamed' })
const { text } = await model.generate('Once upon a time', { maxTokens: 9 }).result
parentPort.postMessage(text)
for (let i = 0; i < 3; i++) model.generate('The', { ignoreEos: true })\`
const workers = [0, 1].map(() => new Worker(new URL('data:text/javascript,' + encodeURIComponent(source))))
const texts = await Promise.all(workers.map((worker) => new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject))))
await Promise.all(workers.map((worker) => worker.terminate()))
const model = await millrace.load(demo)
texts.push((await model.generate('Once upon a time', { maxTokens: 9 }).result).text)
console.log(new Set(texts).size, texts[0])`)
  expect({ code, signal, stdout, stderr }).toEqual({
    code: 0,
    signal: null,
    stdout: '1 , there was a kind girl named Daisy.\n',
    stderr: '',
  })
})

test('worker threads that load the same model share its weights; they go with the last', async () => {
  const { code, stdout, stderr } = await program(`
import { Worker } from 'node:worker_threads'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
const source = \`import * as millrace from ${INDEX}
import { parentPort } from 'node:worker_threads'
const model = await millrace.load(\${JSON.stringify(demo)}, { contextLength: 64, maxSequences: 1 })
const { text } = await model.generate('Once upon a time', { maxTokens: 9 }).result
parentPort.postMessage({ text, hostBytes: model.memory.hostBytes })
model.generate('The', { ignoreEos: true }) // still runs when the worker is ended
parentPort.on('message', () => {})\`
const held = async () => (await millrace.probe()).weightBytes
console.log(await held())
const workers = [0, 1].map(() => new Worker(new URL('data:text/javascript,' + encodeURIComponent(source))))
const [one, two] = (await Promise.all(workers.map((worker) => once(worker, 'message')))).flat()
console.log(one.text === two.text, one.hostBytes > 1e6, one.hostBytes === two.hostBytes, one.hostBytes === await held())
await workers[0].terminate()
const model = await millrace.load(demo, { contextLength: 64, maxSequences: 1 })
await workers[1].terminate()
console.log((await model.generate('Once upon a time', { maxTokens: 9 }).result).text === one.text, one.hostBytes === await held())
await model.close()
for (let tries = 0; tries < 1000 && (await held()) > 0; tries++) await sleep(5)
console.log(await held())`)
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: '0\ntrue true true true\ntrue true\n0\n', stderr: '' })
})

test('process.exit() in a worker, in the middle of everything, ends the worker alone', async () => {
  const { code, signal, stdout, stderr } = await program(`
import { Worker } from 'node:worker_threads'
import { once } from 'node:events'
const source = \`import * as millrace from ${INDEX}
const model = await millrace.load(\${JSON.stringify(demo)}, { placement: 'streamed' })
for (let i = 0; i < 8; i++) model.generate('The', { ignoreEos: true })
model.score('Once upon a time'.repeat(50))
millrace.load(\${JSON.stringify(demo)})
for await (const _ of model.generate('The', { ignoreEos: true })) process.exit(4)\`
const model = await millrace.load(demo, { placement: 'streamed' })
const mine = model.generate('Once upon a time', { maxTokens: 300, ignoreEos: true })
const [exit] = await once(new Worker(new URL('data:text/javascript,' + encodeURIComponent(source))), 'exit')
console.log(exit, (await mine.result).tokens.length)
await model.close()`)
  expect({ code, signal, stdout, stderr }).toEqual({ code: 0, signal: null, stdout: '4 300\n', stderr: '' })
})

test('long chats are put through the template beside the event loop, with the same tokens', async () => {
  const { code, stdout, stderr } = await program(`
const model = await millrace.load(demo)
const message = { role: 'user', content: 'Tell me a story about a boat. '.repeat(60) }
let turns = 0
const timer = setInterval(() => turns++, 1)
const beside = await model.chat([message], { maxTokens: 5 }).result
clearInterval(timer)
// A function cannot be sent to a thread, and means nothing to a template.
const here = await model.chat([{ ...message, extra() {} }], { maxTokens: 5 }).result
console.log(beside.text === here.text, beside.usage.promptTokens === here.usage.promptTokens, turns > 0)
await model.close()`)
  expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: 'true true true\n', stderr: '' })
})
