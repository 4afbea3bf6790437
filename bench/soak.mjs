// Abuse. Prints what happened and how much memory it took; exit code 1 if a promise was broken.
//
//   npm run build && node bench/soak.mjs [folder] [--seconds 600] [--concurrent 64] [--distinct 96]
//       [--placement streamed] [--seed 1]
//     Requests of mixed lengths and options, cancelled and aborted at random points, read, not read and half read, over a
//     KV cache of a third of what they need at once. Every request that ends by itself must have exactly the tokens and
//     log-probabilities that it has alone.
//
//   node bench/soak.mjs [folder] --cycles 200 [--aborts 10000]
//     Load and close so often, with so many generations in all begun and aborted at random points: no KV block may be
//     lost, and resident memory must stay flat.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { begin, dist, ROOT } from './program.mjs'

const { options: chosen, positionals } = begin(import.meta, {
  seconds: 600,
  concurrent: 64,
  distinct: 96,
  placement: 'resident',
  seed: 1,
  cycles: Number,
  aborts: 10000,
})
const { load } = await dist('index.js')
const folder = positionals[0] ?? join(ROOT, 'models', 'demo')
const CONTEXT = 512
const DISTINCT = chosen.distinct

/** mulberry32: a fixed seed gives the same abuse, as far as timing lets it. */
function randomOf(seed) {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  return { next, below: (limit) => Math.floor(next() * limit), chance: (share) => next() < share }
}
const random = randomOf(chosen.seed)

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc')
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`
function rss() {
  collectGarbage()
  return process.memoryUsage.rss()
}

/** A request of its own: many begin alike, so that prefixes are shared; all ways to sample occur. */
function makeRequest() {
  const story = 'Once upon a time there was a boat. It sailed over the sea to a small island. '
  const own = random.chance(0.6) ? `Story ${random.below(1e6)}. ` : ''
  const prompt = `${own}${story.repeat(random.below(5))}${['The', 'One day', 'A little dog', 'Tom'][random.below(4)]}`
  const options = { maxTokens: 4 + random.below(random.chance(0.5) ? 380 : 40), logprobs: true, ignoreEos: true }
  options.seed = random.below(1000)
  if (random.chance(0.6)) Object.assign(options, { temperature: 0.5 + random.next(), topP: 0.95 })
  if (random.chance(0.2)) Object.assign(options, { typicalP: 0.9 })
  if (random.chance(0.3)) Object.assign(options, { repetitionPenalty: 1.2, frequencyPenalty: 0.1 })
  if (random.chance(0.2)) Object.assign(options, { logitBias: { [random.below(1000)]: 2 } })
  if (random.chance(0.2)) Object.assign(options, { topLogprobs: 3 })
  return { prompt, options }
}

const kept = ({ tokens, logprobs, topLogprobs, text, finishReason }) => ({
  tokens,
  logprobs,
  topLogprobs,
  text,
  finishReason,
})

async function soak() {
  const { seconds, concurrent } = chosen
  const requests = Array.from({ length: DISTINCT }, makeRequest)
  const alone = []
  {
    const model = await load(folder, { contextLength: CONTEXT, prefixReuse: false })
    for (const { prompt, options } of requests) alone.push(kept(await model.generate(prompt, options).result))
    await model.close()
  }
  const lengths = []
  {
    const model = await load(folder, { contextLength: CONTEXT })
    for (const [index, { prompt }] of requests.entries()) {
      lengths.push((await model.tokenizer.encode(prompt)).length + alone[index].tokens.length)
    }
    await model.close()
  }
  const need = (concurrent * lengths.reduce((sum, length) => sum + length, 0)) / DISTINCT
  const model = await load(folder, {
    contextLength: CONTEXT,
    kvTokens: Math.ceil(need / 3),
    placement: chosen.placement,
    poison: true,
  })
  const count = { finished: 0, cancelled: 0, aborted: 0, stalled: 0, scored: 0, refused: 0 }
  const began = performance.now()
  const over = () => performance.now() - began >= seconds * 1000
  const memory = []

  async function user() {
    while (!over()) {
      const index = random.below(DISTINCT)
      const { prompt, options } = requests[index]
      const how = random.next()
      const priority = random.below(3)
      if (how < 0.5) {
        assert.deepEqual(kept(await model.generate(prompt, { ...options, priority }).result), alone[index])
        count.finished++
      } else if (how < 0.65) {
        // Opens, reads a little, and comes back when all is over.
        const generation = model.generate(prompt, { ...options, priority })
        const reader = generation[Symbol.asyncIterator]()
        let { text } = (await reader.next()).value ?? { text: '' }
        assert.deepEqual(kept(await generation.result), alone[index])
        await sleep(random.below(20))
        let chunks = 0
        for (let next = await reader.next(); !next.done; next = await reader.next(), chunks++) text += next.value.text
        assert.equal(text, alone[index].text)
        assert.ok(chunks <= 1, `a stalled reader got ${chunks} chunks instead of one`)
        count.stalled++
      } else if (how < 0.8) {
        const generation = model.generate(prompt, { ...options, priority })
        await sleep(random.below(200))
        generation.cancel()
        const { tokens } = await generation.result
        assert.deepEqual(tokens, alone[index].tokens.slice(0, tokens.length))
        count.cancelled++
      } else if (how < 0.92) {
        const signal = AbortSignal.timeout(random.below(200))
        const outcome = await model
          .generate(prompt, { ...options, priority, signal })
          .result.then(kept, (error) => error)
        if (outcome instanceof Error) assert.equal(outcome.code, 'ABORTED')
        else assert.deepEqual(outcome, alone[index])
        count.aborted++
      } else if (how < 0.96) {
        const { logprobs } = await model.score(prompt, { priority })
        assert.ok(logprobs.every((value) => value <= 0))
        count.scored++
      } else {
        const error = await model
          .generate(prompt, { ...options, deadlineMs: 1 + random.below(5) })
          .result.catch((e) => e)
        if (error instanceof Error) assert.equal(error.code, 'DEADLINE_EXCEEDED')
        count.refused++
      }
    }
  }
  const users = Promise.all(Array.from({ length: concurrent }, user))
  const sampler = setInterval(() => memory.push(rss()), Math.max(500, (seconds * 1000) / 40))
  await users
  clearInterval(sampler)
  const { stats } = model
  await model.close()
  const after = rss()
  const half = memory.slice(Math.floor(memory.length / 2))
  console.log(
    `${seconds} s, ${concurrent} at once, ${chosen.placement}, KV cache of ${model.plan.kvTokens} tokens for ${Math.round(need)}: ` +
      Object.entries(count)
        .map(([name, n]) => `${n} ${name}`)
        .join(', '),
  )
  console.log(
    `${stats.steps} steps, ${stats.rows.decode} tokens decoded, ${stats.sequences.preemptions} preemptions, ` +
      `${(100 * stats.prefixCache.hitRate).toFixed(0)} % of prompt tokens from the prefix cache`,
  )
  console.log(
    `RSS ${megabytes(memory[0] ?? after)} at the start, ${megabytes(Math.min(...half, after))} to ` +
      `${megabytes(Math.max(...half))} in the second half, ${megabytes(after)} after close`,
  )
  assert.equal(stats.kv.blocksUsed, 0, 'KV blocks were lost')
  assert.equal(stats.kv.savedBytes, 0, 'saved KV was lost')
  const { running, waiting } = stats.sequences
  assert.deepEqual({ running, waiting }, { running: 0, waiting: 0 })
  assert.ok(stats.sequences.preemptions > 0, 'the KV cache was never short: nothing was shown')
}

async function abuse(cycles, aborts) {
  const samples = []
  let begun = 0
  let finished = 0
  for (let cycle = 0; cycle < cycles; cycle++) {
    const model = await load(folder, {
      contextLength: CONTEXT,
      maxSequences: 2,
      placement: cycle % 2 === 0 ? 'resident' : 'streamed',
    })
    const share = Math.round((aborts * (cycle + 1)) / cycles) - Math.round((aborts * cycle) / cycles)
    const open = Array.from({ length: share }, async () => {
      const { prompt, options } = makeRequest()
      const ending = random.next()
      begun++
      if (ending < 0.5) {
        const controller = new AbortController()
        const generation = model.generate(prompt, { ...options, signal: controller.signal })
        if (ending < 0.1) controller.abort()
        else setTimeout(() => controller.abort(), random.below(60))
        await generation.result.then(
          () => finished++,
          (error) => assert.equal(error.code, 'ABORTED'),
        )
      } else if (ending < 0.8) {
        let chunks = 1 + random.below(5)
        for await (const _ of model.generate(prompt, options)) if (--chunks === 0) break
      } else {
        const generation = model.generate(prompt, options)
        await sleep(random.below(60))
        generation.cancel()
        if ((await generation.result).finishReason !== 'abort') finished++
      }
    })
    await Promise.all(open)
    // What was aborted is gone for its caller at once, for the engine after its step.
    for (let tries = 0; model.stats.sequences.running + model.stats.sequences.waiting > 0; tries++) {
      assert.ok(tries < 1000, 'aborted requests still run')
      await sleep(5)
    }
    const { kv } = model.stats
    assert.equal(kv.blocksUsed, 0, `KV blocks were lost in cycle ${cycle}`)
    assert.equal(kv.savedBytes, 0, `saved KV was lost in cycle ${cycle}`)
    await model.close({ drain: false })
    if (cycle % Math.max(1, Math.floor(cycles / 20)) === 0 || cycle === cycles - 1) samples.push(rss())
  }
  // The first cycles fill caches of the allocator and of V8.
  const early = Math.max(...samples.slice(Math.floor(samples.length / 4), Math.floor(samples.length / 2)))
  const late = Math.max(...samples.slice(Math.floor((samples.length * 3) / 4)))
  console.log(
    `${cycles} loads and closes, ${begun} generations begun, ${finished} of them finished before their abort; RSS ` +
      `${samples.map((bytes) => (bytes / 1e6).toFixed(0)).join(' ')} MB`,
  )
  if (samples.length >= 8)
    assert.ok(late < early * 1.1 + 8e6, `RSS grew from ${megabytes(early)} to ${megabytes(late)}`)
}

const started = performance.now()
if (chosen.cycles === undefined) await soak()
else await abuse(chosen.cycles, chosen.aborts)
console.log(`done in ${((performance.now() - started) / 1000).toFixed(0)} s`)
