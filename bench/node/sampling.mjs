// What it costs that every row asks for more than a token: tokens/s of generate() with penalties, a bias and five top
// log-probabilities, and under a constraint, beside those without.
//
//   node bench/node/sampling.mjs                        a model's folder, models/demo
//   node bench/node/sampling.mjs --shape llama3-8b      random weights and a made-up vocabulary
//
// Needs `npm run build`. `--model`, `--device`, `--streams` at once, `--tokens` of each answer, `--layers` of a shape, `--rounds`, in each of which
// all kinds take turns. The goal is 98 % of without.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { begin, dist, ROOT, shapeOf } from '../program.mjs'

const { options } = begin(import.meta, {
  model: join(ROOT, 'models', 'demo'),
  shape: String,
  layers: Number,
  device: 'auto',
  streams: 64,
  tokens: 128,
  rounds: 5,
})
const { device, streams, tokens, rounds } = options

const millrace = await dist('index.js')
const folder = mkdtempSync(join(tmpdir(), 'millrace-sampling-'))

async function loadModel() {
  const settings = { device, batch: streams, contextLength: Math.max(256, tokens + 32), speculation: { method: 'off' } }
  if (options.shape === undefined) return millrace.load(options.model, settings)
  const spec = await shapeOf(options.shape, options.layers)
  const { loadSynthetic } = await dist('model/synthetic.js')
  const { makeVocabulary } = await import('./vocabulary.mjs')
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(makeVocabulary(spec.vocab)))
  writeFileSync(join(folder, 'tokenizer_config.json'), '{}')
  const tokenizer = await millrace.loadTokenizer(folder)
  return loadSynthetic(options.shape, spec, { ...settings, tokenizer }, { head: 'q4' })
}

const model = await loadModel()
const vocab = Math.min(model.spec.vocab, 1900)
const promptOf = (index) => Array.from({ length: 16 }, (_, at) => 3 + ((index * 7919 + at * 104729) % (vocab - 3)))

const penalties = { repetitionPenalty: 1.1, presencePenalty: 0.2, frequencyPenalty: 0.2 }
const kinds = {
  without: {},
  'penalties, bias, 5 top log-probabilities': { ...penalties, logitBias: { 100: 2 }, topLogprobs: 5 },
  constraint: { constraint: { regex: '([a-z]+[ .,])*' } },
}

/** Tokens a second of all streams together; answers may be shorter where a constraint lets them end. */
async function rate(kind) {
  const began = performance.now()
  const answers = await Promise.all(
    Array.from({ length: streams }, (_, index) => {
      const more = {
        maxTokens: tokens,
        minTokens: tokens,
        seed: index,
        temperature: 0.8,
        logprobs: true,
        ...kinds[kind],
      }
      return model.generate(promptOf(index), more).result
    }),
  )
  const made = answers.reduce((sum, answer) => sum + answer.tokens.length, 0)
  return { rate: (made * 1000) / (performance.now() - began), whole: made === streams * tokens }
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1]
const found = Object.fromEntries(Object.keys(kinds).map((kind) => [kind, []]))
for (const kind of Object.keys(kinds)) await rate(kind) // graphs, masks, caches
for (let round = 0; round < rounds; round++) {
  for (const kind of Object.keys(kinds)) found[kind].push(await rate(kind))
}
const rates = (kind) => found[kind].map((one) => one.rate)
for (const kind of Object.keys(kinds)) {
  const shares = rates(kind).map((one, round) => (100 * one) / rates('without')[round])
  console.log(
    `${kind}: ${median(rates(kind)).toFixed(1)} tok/s, ${median(shares).toFixed(1)} % of without (${Math.min(...shares).toFixed(1)} to ${Math.max(...shares).toFixed(1)})`,
  )
}
const whole = Object.values(found).every((runs) => runs.every((run) => run.whole))
console.log(`${streams} streams of ${tokens} tokens, ${rounds} rounds, all whole: ${whole}`)
await model.close({ drain: false })
rmSync(folder, { recursive: true, force: true })
if (!whole) process.exitCode = 1
