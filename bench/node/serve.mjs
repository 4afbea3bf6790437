// What serving over HTTP costs, clients being another process on the loopback:
//
//   node bench/node/serve.mjs rate                          tokens/s of 64 streams, beside those of generate()
//   node bench/node/serve.mjs rate --shape llama3-8b        the same of random weights with a made-up vocabulary
//   node bench/node/serve.mjs crowd                         slow, stalled, dropping and malformed clients for two minutes
//
// Needs `npm run build`. `--model` is a folder (default models/demo), `--device`, `--streams`, `--tokens`, `--layers`, `--rounds`; of the crowd
// `--connections` and `--seconds`. The rate's goal is 95 % of generate(). The crowd's: no answer lost, mixed or torn, RSS
// back where it was, timers of the server's thread late by less than 10 ms (p99).
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { begin, dist, fail, ROOT, shapeOf } from '../program.mjs'

const { options, positionals } = begin(import.meta, {
  model: join(ROOT, 'models', 'demo'),
  shape: String,
  layers: Number,
  device: 'auto',
  streams: 64,
  tokens: 128,
  rounds: 5,
  connections: 1000,
  seconds: 120,
  client: false,
})

/** The `index`th prompt, the same in both processes. */
const promptOf = (index, vocab) =>
  Array.from({ length: 16 }, (_, at) => 3 + ((index * 7919 + at * 104729) % (vocab - 3)))
const bodyOf = (index, { vocab, tokens }, more = {}) =>
  JSON.stringify({ prompt: promptOf(index, vocab), max_tokens: tokens, ignore_eos: true, stream: true, ...more })

// ---- The clients' process

/** What a stream brought, undefined where it was cut. `pace`: milliseconds between reads. */
function readStream(port, body, { pace = 0, leave = Number.POSITIVE_INFINITY, agent = false, onBegin, onError } = {}) {
  return new Promise((resolve) => {
    const sent = request({
      port,
      path: '/v1/completions',
      method: 'POST',
      agent,
      headers: { 'content-type': 'application/json' },
    })
    sent.on('error', ({ code }) => {
      onError?.(code)
      resolve(undefined)
    })
    sent.end(body)
    sent.on('response', (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('error', () => {}) // 'close' tells
      response.on('data', (part) => {
        if (text === '') onBegin?.()
        text += part
        if (text.length > leave) response.destroy()
        else if (pace > 0) {
          response.pause()
          setTimeout(() => response.resume(), pace)
        }
      })
      response.on('close', () => resolve(text.endsWith('data: [DONE]\n\n') ? text : undefined))
    })
  })
}

/** The answer that a stream has brought. */
function textOf(stream) {
  const events = stream?.split('\n\n').filter((block) => block.startsWith('data: {'))
  return events?.map((event) => JSON.parse(event.slice(6)).choices[0]?.text ?? '').join('')
}

/** Connections stay, as those of backends and official clients do. */
const agent = new Agent({ keepAlive: true })

async function rateClient({ port, streams, ...task }) {
  const began = performance.now()
  const firstMs = []
  const onBegin = () => firstMs.push(performance.now() - began)
  const read = await Promise.all(
    Array.from({ length: streams }, (_, index) => readStream(port, bodyOf(index, task), { agent, onBegin })),
  )
  const seconds = (performance.now() - began) / 1000
  return { seconds, firstMs: Math.max(...firstMs), texts: read.map(textOf) }
}

async function crowdClient({ port, connections, seconds, ...task }) {
  const until = performance.now() + seconds * 1000
  const found = { whole: [], left: 0, malformed: 0, stalled: 0, errors: {} }
  const onError = (code) => {
    found.errors[code] = (found.errors[code] ?? 0) + 1
  }
  const clients = [
    async (index) =>
      found.whole.push([index % 8, textOf(await readStream(port, bodyOf(index % 8, task), { onError }))]),
    async (index) =>
      found.whole.push([index % 8, textOf(await readStream(port, bodyOf(index % 8, task), { pace: 50, onError }))]),
    async (index) => {
      await readStream(port, bodyOf(index % 8, task), { leave: 400 })
      found.left++
    },
    async () => {
      const socket = connect(port)
      socket.on('error', () => {})
      socket.end(
        'POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"prompt"',
      )
      socket.resume()
      await new Promise((resolve) => socket.on('close', resolve))
      found.malformed++
    },
    async (index) => {
      const body = bodyOf(index % 8, task)
      const socket = connect(port)
      socket.on('error', () => {})
      socket.pause()
      socket.write(
        `POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
      )
      await new Promise((resolve) => setTimeout(resolve, 2000))
      socket.destroy()
      found.stalled++
    },
  ]
  const worker = async (index) => {
    for (let turn = index; performance.now() < until; turn += connections) await clients[index % clients.length](turn)
  }
  await Promise.all(Array.from({ length: connections }, (_, index) => worker(index)))
  return found
}

if (options.client) {
  process.on('message', async (task) => process.send(await (task.crowd ? crowdClient(task) : rateClient(task))))
  process.on('disconnect', () => process.exit(0))
} else await main()

// ---- The server's

function median(values) {
  return values.toSorted((a, b) => a - b)[values.length >> 1]
}

/** Microseconds that this thread has had a processor. */
function ownCpu() {
  return Number(readFileSync('/proc/thread-self/schedstat', 'latin1').split(' ')[0]) / 1e3
}

async function loadModel(millrace, folder) {
  const { device, streams, tokens, shape } = options
  const settings = { device, batch: streams, contextLength: Math.max(256, tokens + 32) }
  if (shape === undefined) return millrace.load(options.model, settings)
  const spec = await shapeOf(shape, options.layers)
  const { loadSynthetic } = await dist('model/synthetic.js')
  const { makeVocabulary } = await import('./vocabulary.mjs')
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(makeVocabulary(spec.vocab)))
  writeFileSync(join(folder, 'tokenizer_config.json'), '{}')
  const tokenizer = await millrace.loadTokenizer(folder)
  return loadSynthetic(shape, spec, { ...settings, tokenizer }, { head: 'q4' })
}

/** Clients that take one task after the other. They start once: what that costs is nobody's. */
function startClients() {
  const child = fork(new URL(import.meta.url), ['--client'])
  return {
    async run(task) {
      child.send(task)
      const [answer] = await once(child, 'message')
      return answer
    },
    close: () => child.disconnect(),
  }
}

async function main() {
  const [what = 'rate'] = positionals
  if (what !== 'rate' && what !== 'crowd') fail(`expected rate or crowd but received '${what}'`)
  const { streams, tokens, connections, seconds } = options
  const millrace = await dist('index.js')
  const { serve } = await dist('server/index.js')
  const { closeWatch, watch } = await import('./watch.mjs')
  const clients = startClients()
  const folder = mkdtempSync(join(tmpdir(), 'millrace-serve-'))
  const model = await loadModel(millrace, folder)
  const server = await serve({ models: { model }, port: 0, logLevel: 'silent', stallMs: 5000 })
  const task = { port: Number(new URL(server.url).port), vocab: Math.min(model.spec.vocab, 1900), tokens, streams }
  const generate = (index, maxTokens = tokens) =>
    model.generate(promptOf(index, task.vocab), { maxTokens, ignoreEos: true }).result
  if (what === 'rate') {
    await Promise.all(Array.from({ length: streams }, (_, index) => generate(index, 4)))
    await clients.run(task)
    const rates = { alone: [], served: [], share: [] }
    const begun = { alone: [], served: [] }
    const spent = { alone: 0, served: 0 }
    let same = true
    // In turn, so that what else the machine does falls on both.
    for (let round = 0; round < options.rounds; round++) {
      let cpu = ownCpu()
      const began = performance.now()
      const expected = await Promise.all(Array.from({ length: streams }, (_, index) => generate(index)))
      rates.alone.push((streams * tokens * 1000) / (performance.now() - began))
      spent.alone += ownCpu() - cpu
      begun.alone.push(Math.max(...expected.map(({ timings }) => timings.firstTokenMs)))
      cpu = ownCpu()
      const { seconds: took, firstMs, texts } = await clients.run(task)
      begun.served.push(firstMs)
      rates.served.push((streams * tokens) / took)
      spent.served += ownCpu() - cpu
      rates.share.push((100 * rates.served[round]) / rates.alone[round])
      same &&= texts.every((text, index) => text === expected[index].text)
    }
    const [alone, served, share] = [rates.alone, rates.served, rates.share].map(median)
    const each = options.rounds * streams * tokens
    console.log(`generate() ${alone.toFixed(1)} tok/s, served ${served.toFixed(1)} tok/s: ${share.toFixed(1)} %`)
    console.log(`of ${options.rounds} rounds: ${rates.share.map((one) => one.toFixed(1)).join(', ')} %`)
    console.log(
      `JavaScript's thread: ${(spent.alone / each).toFixed(1)} us a token, serving ${(spent.served / each).toFixed(1)} us`,
    )
    const [first, firstServed] = [begun.alone, begun.served].map(median)
    console.log(`all streams have begun after ${first.toFixed(0)} ms, over HTTP after ${firstServed.toFixed(0)} ms`)
    console.log(`${streams} streams of ${tokens} tokens, texts equal: ${same}`)
    if (!same) process.exitCode = 1
  } else {
    const expected = await Promise.all(Array.from({ length: 8 }, (_, index) => generate(index)))
    // What is taken once, for as many connections at once, is there before it counts.
    await clients.run({ ...task, crowd: true, connections, seconds: seconds / 4 })
    const memory = async () => {
      await new Promise((resolve) => setTimeout(resolve, 1000))
      globalThis.gc?.()
      return process.memoryUsage()
    }
    const before = await memory()
    const resident = []
    const timer = setInterval(() => resident.push(process.memoryUsage.rss()), 500)
    const stop = watch()
    const found = await clients.run({ ...task, crowd: true, connections, seconds })
    clearInterval(timer)
    const { p99, own } = stop()
    closeWatch()
    const after = await memory()
    const grown = (what) => ((after[what] - before[what]) / 1e6).toFixed(0)
    const wrong = found.whole.filter(([index, text]) => text !== expected[index].text)
    const { left, malformed, stalled, errors } = found
    console.log(
      `${found.whole.length} answers whole, ${wrong.length} lost, mixed or torn; ${left} left, ${stalled} stalled, ${malformed} malformed`,
    )
    // Of the clients' side, such as ports that are not free again yet.
    if (Object.keys(errors).length > 0) console.log(`errors of the clients' connections: ${JSON.stringify(errors)}`)
    console.log(`of those wrong, ${wrong.filter(([, text]) => text === undefined).length} came to no end`)
    console.log(
      `timers p99 ${p99.toFixed(1)} ms, ${own.p99.toFixed(1)} of it its own; RSS grew by ${grown('rss')} MB, ` +
        `of that JavaScript's heap by ${grown('heapTotal')}, what is used of it by ${grown('heapUsed')}, buffers by ${grown('external')}`,
    )
    const quarter = Math.ceil(resident.length / 4)
    const most = [0, 1, 2, 3].map((at) => Math.max(...resident.slice(at * quarter, (at + 1) * quarter)))
    console.log(
      `RSS ${(before.rss / 1e6).toFixed(0)} MB before, at most ${most.map((one) => (one / 1e6).toFixed(0)).join(', ')} MB in each quarter, ` +
        `${(after.rss / 1e6).toFixed(0)} MB a second after`,
    )
    if (wrong.length > 0) process.exitCode = 1
  }
  clients.close()
  await server.close(1000)
  await model.close({ drain: false })
  rmSync(folder, { recursive: true, force: true })
}
