// How much the library delays the application: the lateness of a 1 ms timer while a model decodes and prompts of 30,000
// tokens arrive, beside the same timer's in this process before anything was loaded. Limits: p99 < 5 ms, maximum < 20 ms.
//
//   npm run build && node bench/node/event_loop.mjs [folder] [--seconds 20] [--limits 5,20] [--json]
//
// Exits with 1 where a limit is missed.
import { join } from 'node:path'
import { begin, dist, ROOT } from '../program.mjs'
import { closeWatch, watch } from './watch.mjs'

const { options, positionals } = begin(import.meta, { seconds: 20, limits: '5,20', json: false })
const { load } = await dist('index.js')
const folder = positionals[0] ?? join(ROOT, 'models', 'demo')
const { seconds } = options
const [p99, max] = options.limits.split(',').map(Number)

const LIMITS = { p99, max }
const PROMPT_TOKENS = 30_000
const PROMPTS_A_SECOND = 2
const DECODERS = 4

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

let stop = watch()
await sleep(Math.min(3000, seconds * 1000))
const idle = stop()

const model = await load(folder, { contextLength: 1024, maxSequences: 8 })
const sentence = 'Once upon a time there was a boat, and it sailed away over the sea. '
const sentenceTokens = (await model.tokenizer.encode(sentence)).length
const long = sentence.repeat(Math.ceil((1.1 * PROMPT_TOKENS) / sentenceTokens))

const promptTokens = (await model.tokenizer.encode(long)).length

let running = true
const controller = new AbortController()
const decoded = { tokens: 0 }
async function decode() {
  while (running) {
    for await (const { tokens } of model.generate('Once upon a time', { ignoreEos: true })) {
      decoded.tokens += tokens.length
      if (!running) break
    }
  }
}

stop = watch()
const before = model.stats
const decoders = Array.from({ length: DECODERS }, decode)
const arrivals = []
const began = performance.now()
for (let sent = 0; performance.now() - began < seconds * 1000; sent++) {
  // Cut to the context, as a server does that takes whatever comes.
  const request = { maxTokens: 4, truncate: 'middle', signal: controller.signal }
  const generation =
    sent % 2 === 1 && model.hasChatTemplate
      ? model.chat([{ role: 'user', content: long }], request)
      : model.generate(long, request)
  arrivals.push(generation.result)
  await sleep(1000 / PROMPTS_A_SECOND)
}
const busy = stop()
const after = model.stats
running = false
controller.abort()
const answers = await Promise.allSettled(arrivals)
await Promise.all(decoders)
await model.close()

const answered = answers.filter(({ status }) => status === 'fulfilled').length
const met = busy.p99 < LIMITS.p99 && busy.max < LIMITS.max
const report = {
  folder,
  idle,
  busy,
  limits: LIMITS,
  met,
  prompts: answers.length,
  answered,
  promptTokens,
  steps: after.steps - before.steps,
}
if (options.json) console.log(JSON.stringify(report))
else {
  const figures = ({ p50, p99, max }) => `p50 ${p50.toFixed(2)}  p99 ${p99.toFixed(2)}  max ${max.toFixed(2)} ms`
  const line = (name, { timers, own, ...late }) =>
    console.log(`${name}: ${timers} timers, late ${figures(late)}; without waits for a processor ${figures(own)}`)
  line('before anything is loaded', idle)
  line('decoding, prompts arriving', busy)
  console.log(
    `${answers.length} prompts of ${promptTokens} tokens came, ${answered} were answered meanwhile, ${decoded.tokens} tokens decoded in ${report.steps} steps; ` +
      `limits p99 < ${LIMITS.p99} ms, max < ${LIMITS.max} ms: ${met ? 'met' : 'MISSED'}`,
  )
}
process.exitCode = met ? 0 : 1
closeWatch()
