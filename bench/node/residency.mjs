// What moving weights costs while models serve:
//
//   node bench/node/residency.mjs switch [--head q4]   two 8B models, memory for one: first token of the one that is out
//   node bench/node/residency.mjs turns [--chat 4096]   the same two, a long chat with each: first token of its next turn
//   node bench/node/residency.mjs budget               32 sequences, residency 32 -> 28 -> 4 -> 28 -> 32 layers of an 8B
//   node bench/node/residency.mjs many [--arena 4GB]   20 models of the 1.1B shape, requests at random times
//
// Random weights; needs `npm run build`. Prints figures beside the link measured in the same run. `--shape`, `--layers`,
// `--turns`, `--models`, `--sequences`, `--tokens` and `--seconds` make it smaller; `--device cpu` runs the CPU twin,
// where budget moves the arena and the link is what one thread reads.
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { begin, dist, fail, shapeOf } from '../program.mjs'

const { options, positionals } = begin(import.meta, {
  head: 'q4',
  arena: String,
  device: 'cuda',
  shape: String,
  layers: Number,
  turns: 8,
  chat: 4096,
  models: 20,
  sequences: 32,
  tokens: 200,
  seconds: 6,
})
const { device } = options
const { addon } = await dist('binding.js')
const { loadSynthetic } = await dist('model/synthetic.js')
const { gpus, reason } = addon().probeGpus()
if (device !== 'cpu' && gpus.length === 0) fail(`there is no GPU: ${reason}; --device cpu runs the CPU twin`)
const link = device === 'cpu' ? await addon().measureDramBandwidth(1) : await addon().measureLinkBandwidth(0)
console.log(`link ${(link / 1e9).toFixed(2)} GB/s`)

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const freeGb = () => (device === 'cpu' ? 'unknown' : (addon().probeGpus().gpus[0].memoryFreeBytes / 1e9).toFixed(2))
const promptOf = (seed, length, vocab) =>
  Int32Array.from({ length }, (_, i) => ((seed + 1) * 7919 + i * 104729) % vocab)
const quantile = (values, share) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))]
const ask = (model, seed, length, maxTokens, more = {}) =>
  model.generate(promptOf(seed, length, model.spec.vocab), { maxTokens, ignoreEos: true, ...more }).result

async function switching() {
  const spec = await shapeOf(options.shape ?? 'llama3-8b', options.layers)
  const settings = { device, placement: 'shared', contextLength: Math.min(4096, spec.maxPosition), maxSequences: 1 }
  const models = []
  for (const seed of [1, 2]) {
    models.push(await loadSynthetic('switch', spec, settings, { head: options.head, seed }))
  }
  const bytes = models[0].plan.units.reduce((sum, unit) => sum + unit.bytes, 0)
  for (const model of models) await ask(model, 1, 16, 4)
  const times = []
  for (let i = 0; i < options.turns; i++) {
    const [out, busy] = i % 2 === 0 ? models : models.toReversed()
    const running = ask(busy, 9, 64, 2 * options.tokens)
    await sleep(600) // past its turn
    times.push((await ask(out, 3 + i, 128, 1)).timings.firstTokenMs)
    await running
  }
  console.log(
    `${options.head} head, ${(bytes / 1e9).toFixed(2)} GB: first token after ${times.map((ms) => ms.toFixed(1)).join(', ')} ms; its bytes alone take the link ${((bytes / link) * 1e3).toFixed(1)} ms`,
  )
  for (const model of models) await model.close()
}

// Goal of a turn after the other model was served: 15 % more than its weights take the link.
async function turns() {
  const spec = await shapeOf(options.shape ?? 'llama3-8b', options.layers)
  const { chat } = options
  const added = 32
  const settings = { device, placement: 'shared', contextLength: chat + 256, maxSequences: 1, kvSwap: '4GiB' }
  const models = []
  for (const seed of [1, 2]) {
    models.push(await loadSynthetic('turns', spec, settings, { head: options.head, seed }))
  }
  const ms = (bytes) => (bytes / link) * 1e3
  const weights = models[0].plan.units.reduce((sum, unit) => sum + unit.bytes, 0)
  const { kvBytesPerToken } = models[0].plan
  for (const model of models) await ask(model, 1, chat, 1)
  let others = 100
  const anew = []
  const turn = async (at, pushed) => {
    const [out, busy] = at % 2 === 0 ? models : models.toReversed()
    if (pushed) anew.push((await ask(out, others++, chat, 1)).timings.firstTokenMs) // takes the cache
    await ask(busy, 9, 64, 4)
    const before = out.stats.prefixCache
    const text = Int32Array.from([...promptOf(1, chat, spec.vocab), ...promptOf(others++, added, spec.vocab)])
    const { timings } = await out.generate(text, { maxTokens: 1, ignoreEos: true }).result
    const after = out.stats.prefixCache
    return {
      ms: timings.firstTokenMs,
      reused: after.reusedTokens - before.reusedTokens,
      returned: after.returnedTokens - before.returnedTokens,
    }
  }
  console.log(`weights of ${(weights / 1e9).toFixed(2)} GB take the link ${ms(weights).toFixed(1)} ms`)
  for (const pushed of [false, true]) {
    const all = []
    for (let at = 0; at < options.turns; at++) all.push(await turn(at, pushed))
    const middle = quantile(
      all.map((one) => one.ms),
      0.5,
    )
    const least = (name) => Math.min(...all.map((one) => one[name]))
    const more = 100 * (middle / ms(weights) - 1)
    console.log(
      `${pushed ? `from RAM, ${(ms(kvBytesPerToken * least('returned'))).toFixed(1)} ms of the link more` : 'on the GPU'}: first token after ${all.map((one) => one.ms.toFixed(1)).join(', ')} ms, median ${middle.toFixed(1)} (${more.toFixed(0)} % more than the weights); of ${chat + added} tokens ${least('reused')} reused, ${least('returned')} of them from RAM`,
    )
  }
  console.log(`computed anew, with the copy of the weights: ${quantile(anew, 0.5).toFixed(1)} ms`)
  for (const model of models) await model.close()
}

async function budget() {
  const spec = await shapeOf(options.shape ?? 'llama3-8b', options.layers)
  const { sequences } = options
  const placement = device === 'cpu' ? { placement: 'shared' } : {}
  const model = await loadSynthetic('budget', spec, {
    device,
    ...placement,
    contextLength: 512,
    maxSequences: sequences,
  })
  const { kvBytes, workspaceBytes, units } = model.plan
  const of = (kind) => units.find((unit) => unit.kind === kind).bytes
  const layer = of('attention') + of('feedForward') + 2 ** 22 // allocations are rounded up
  const beside = of('head') + 2 ** 22 + 2 * of('feedForward')
  // Of the CPU twin it is the arena's size.
  const budgetFor = (layers) => (device === 'cpu' ? 0 : kvBytes + workspaceBytes) + beside + layers * layer
  const part = (share) => Math.max(1, Math.round(share * spec.layers))
  const all = part(1)
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
      Array.from({ length: sequences }, (_, r) => ask(model, r, 20, options.tokens, { temperature: 0.8, seed: r })),
    )
    for (const [after, layers] of moves) {
      await sleep(after)
      const began = performance.now()
      const plan = await model.setBudget(layers === all && device !== 'cpu' ? '100%' : budgetFor(layers))
      const streamed = plan.units.filter((unit) => unit.home === 'streamed').length
      console.log(
        `  ${layers} layers: ${streamed} of ${units.length} units streamed after ${(performance.now() - began).toFixed(1)} ms, ${freeGb()} GB free`,
      )
    }
    const tokens = (await texts).map((result) => result.tokens.join())
    unsubscribe('millrace:step', onStep)
    return { tokens, gaps }
  }
  console.log(`  ${freeGb()} GB free`)
  const still = await run([])
  const moved = await run([
    [50, part(28 / 32)],
    [300, part(4 / 32)],
    [1200, part(28 / 32)],
    [300, all],
  ])
  const gaps = ({ gaps }) =>
    `p50 ${quantile(gaps, 0.5).toFixed(1)}, p99 ${quantile(gaps, 0.99).toFixed(1)}, largest ${Math.max(...gaps).toFixed(1)} ms`
  const pass = units.filter((unit) => unit.kind !== 'head').reduce((sum, unit) => sum + unit.bytes, 0) / link
  const equal = still.tokens.every((text, i) => text === moved.tokens[i])
  console.log(
    `texts equal: ${equal}; between tokens undisturbed ${gaps(still)}; moved ${gaps(moved)}; two streamed passes ${(2e3 * pass).toFixed(0)} ms`,
  )
  await model.close()
  if (!equal) process.exitCode = 1
}

async function many() {
  const turnMs = 100
  const spec = await shapeOf(options.shape ?? 'tinyllama-1.1b', options.layers)
  const arena = options.arena ?? '4GB'
  const settings = { device, placement: 'shared', arena, contextLength: 1024, turnMs }
  const models = []
  for (let seed = 1; seed <= options.models; seed++) {
    models.push(await loadSynthetic('many', spec, settings, { seed }))
  }
  const bytes = models[0].plan.units.reduce((sum, unit) => sum + unit.bytes, 0)
  console.log(
    `${models.length} models of ${(bytes / 1e9).toFixed(2)} GB in an arena of ${arena}; a model waits at most ${(((models.length - 1) * (turnMs + (bytes / link) * 1e3)) / 1e3).toFixed(1)} s for its turn`,
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
    while (performance.now() - began < options.seconds * 1000) {
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

const benches = { switch: switching, turns, budget, many }
for (const name of positionals.length > 0 ? positionals : Object.keys(benches)) {
  if (!Object.hasOwn(benches, name)) fail(`expected ${Object.keys(benches).join(', ')} but received '${name}'`)
  console.log(name)
  await benches[name]()
}
