/**
 * What moving weights costs while models serve, on a GPU:
 *
 *   node bench/node/residency.mjs switch [--head q4]   two 8B models, memory for one: first token of the one that is out
 *   node bench/node/residency.mjs budget               32 sequences, residency 32 -> 28 -> 4 -> 28 -> 32 layers of an 8B
 *   node bench/node/residency.mjs many [--arena 4GB]   20 models of the 1.1B shape, requests at random times
 *
 * Random weights; needs `npm run build` with CUDA. Prints figures beside the link measured in the same run.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { parseArgs } from 'node:util'
import { addon } from '../../dist/binding.js'
import { SHAPES } from '../../dist/model/shapes.js'
import { loadSynthetic } from '../../dist/model/synthetic.js'

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { head: { type: 'string', default: 'q4' }, arena: { type: 'string', default: '4GB' } },
})
const link = await addon().measureLinkBandwidth(0)
console.log(`link ${(link / 1e9).toFixed(2)} GB/s`)

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const freeGb = () => (addon().probeGpus().gpus[0].memoryFreeBytes / 1e9).toFixed(2)
const promptOf = (seed, length, vocab) =>
  Int32Array.from({ length }, (_, i) => ((seed + 1) * 7919 + i * 104729) % vocab)
const quantile = (values, share) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))]
const ask = (model, seed, length, maxTokens, more = {}) =>
  model.generate(promptOf(seed, length, model.spec.vocab), { maxTokens, ignoreEos: true, ...more }).result

async function switching() {
  const options = { device: 'cuda', placement: 'shared', contextLength: 4096, maxSequences: 1 }
  const models = []
  for (const seed of [1, 2]) {
    models.push(await loadSynthetic('8b', SHAPES['llama3-8b'], options, { head: values.head, seed }))
  }
  const bytes = models[0].plan.units.reduce((sum, unit) => sum + unit.bytes, 0)
  for (const model of models) await ask(model, 1, 16, 4)
  const times = []
  for (let i = 0; i < 8; i++) {
    const [out, busy] = i % 2 === 0 ? models : models.toReversed()
    const running = ask(busy, 9, 64, 400)
    await sleep(600) // past its turn
    times.push((await ask(out, 3 + i, 128, 1)).timings.firstTokenMs)
    await running
  }
  console.log(
    `${values.head} head, ${(bytes / 1e9).toFixed(2)} GB: first token after ${times.map((ms) => ms.toFixed(1)).join(', ')} ms; its bytes alone take the link ${((bytes / link) * 1e3).toFixed(1)} ms`,
  )
  for (const model of models) await model.close()
}

async function budget() {
  const spec = SHAPES['llama3-8b']
  const model = await loadSynthetic('8b', spec, { device: 'cuda', contextLength: 512, maxSequences: 32 })
  const { kvBytes, workspaceBytes, units } = model.plan
  const of = (kind) => units.find((unit) => unit.kind === kind).bytes
  const layer = of('attention') + of('feedForward') + 2 ** 22 // allocations are rounded up
  const budgetFor = (layers) => kvBytes + workspaceBytes + of('head') + 2 ** 22 + 2 * of('feedForward') + layers * layer
  const run = async (moves) => {
    const gaps = []
    let last
    const onStep = () => {
      const now = performance.now()
      if (last !== undefined) gaps.push(now - last)
      last = now
    }
    subscribe('millrace:step', onStep)
    const texts = Promise.all(
      Array.from({ length: 32 }, (_, r) => ask(model, r, 20, 200, { temperature: 0.8, seed: r })),
    )
    for (const [after, layers] of moves) {
      await sleep(after)
      const began = performance.now()
      const plan = await model.setBudget(layers === spec.layers ? '100%' : budgetFor(layers))
      const resident = plan.units.filter((unit) => unit.home === 'resident').length
      console.log(
        `  ${resident} of ${units.length} units resident after ${(performance.now() - began).toFixed(1)} ms, ${freeGb()} GB free`,
      )
    }
    const tokens = (await texts).map((result) => result.tokens.join())
    unsubscribe('millrace:step', onStep)
    return { tokens, gaps }
  }
  console.log(`  ${freeGb()} GB free`)
  const still = await run([])
  const moved = await run([
    [50, 28],
    [300, 4],
    [1200, 28],
    [300, 32],
  ])
  const gaps = ({ gaps }) =>
    `p50 ${quantile(gaps, 0.5).toFixed(1)}, p99 ${quantile(gaps, 0.99).toFixed(1)}, largest ${Math.max(...gaps).toFixed(1)} ms`
  const pass = units.filter((unit) => unit.kind !== 'head').reduce((sum, unit) => sum + unit.bytes, 0) / link
  console.log(
    `texts equal: ${still.tokens.every((text, i) => text === moved.tokens[i])}; between tokens undisturbed ${gaps(still)}; moved ${gaps(moved)}; two streamed passes ${(2e3 * pass).toFixed(0)} ms`,
  )
  await model.close()
}

async function many() {
  const turnMs = 100
  const options = { device: 'cuda', placement: 'shared', arena: values.arena, contextLength: 1024, turnMs }
  const models = []
  for (let seed = 1; seed <= 20; seed++) {
    models.push(await loadSynthetic('1.1b', SHAPES['tinyllama-1.1b'], options, { seed }))
  }
  const bytes = models[0].plan.units.reduce((sum, unit) => sum + unit.bytes, 0)
  console.log(
    `20 models of ${(bytes / 1e9).toFixed(2)} GB in an arena of ${values.arena}; a model waits at most ${((19 * (turnMs + (bytes / link) * 1e3)) / 1e3).toFixed(1)} s for its turn`,
  )
  let state = 12345
  const random = () => {
    state = (state * 1103515245 + 12345) % 2147483648
    return state / 2147483648
  }
  for (const rate of [10, 40, 100]) {
    const began = performance.now()
    const [first, pending] = [[], []]
    let tokens = 0
    while (performance.now() - began < 6000) {
      await sleep((-Math.log(1 - random()) / rate) * 1e3)
      const model = models[Math.floor(random() * models.length)]
      const answer = ask(model, pending.length, 16 + Math.floor(random() * 200), 8 + Math.floor(random() * 56))
      pending.push(
        answer.then(({ timings, usage }) => {
          first.push(timings.firstTokenMs)
          tokens += usage.completionTokens
        }),
      )
    }
    await Promise.all(pending)
    const seconds = (performance.now() - began) / 1e3
    const ms = [0.5, 0.99, 1].map((share) => quantile(first, share).toFixed(0))
    console.log(
      `${rate} a second: ${pending.length} requests, ${(tokens / seconds).toFixed(0)} tok/s, first token p50 ${ms[0]}, p99 ${ms[1]}, largest ${ms[2]} ms`,
    )
  }
  for (const model of models) await model.close()
}

const benches = { switch: switching, budget, many }
for (const name of positionals.length > 0 ? positionals : Object.keys(benches)) {
  if (!Object.hasOwn(benches, name))
    throw new Error(`expected ${Object.keys(benches).join(', ')} but received '${name}'`)
  console.log(name)
  await benches[name]()
}
