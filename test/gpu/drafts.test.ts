/**
 * Tokens guessed ahead on a GPU: answers have the bits that they have without, whatever is guessed and however often it
 * is right, wherever the weights are, in crowds, preempted, under penalties and constraints. Needs a device; elsewhere
 * it says why it does not run. MILLRACE_SCHEDULES says how many schedules; without it 25.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  type GenerateOptions,
  type LoadOptions,
  load,
  type Model,
  type PlacementHome,
  probe,
  type Speculation,
} from '../../lib/index.ts'
import { foresee } from '../../lib/model/foreseen.ts'
import { randomOf } from './random.ts'

const demo = join(fileURLToPath(new URL('../..', import.meta.url)), 'models/demo')
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

const schedules = Number(process.env.MILLRACE_SCHEDULES ?? 25)

const OFF: Speculation = { method: 'off' }
const options = { device: 'cuda', contextLength: 512, prefixReuse: false } as const
const tokensFrom = (seed: number, length: number) =>
  Array.from({ length }, (_, i) => (seed * 37 + i * 11 + ((i * i) % 7)) % 400)
/** A text that repeats itself: n-grams find much. */
const again = (seed: number) => Array.from({ length: 5 }, () => tokensFrom(seed, 12 + seed)).flat()

const samplings: [string, GenerateOptions][] = [
  ['greedy', { temperature: 0 }],
  ['sampled', { temperature: 0.9, topP: 0.95, topK: 50, seed: 5 }],
  ['typical, answered by the host', { temperature: 0.9, typicalP: 0.9, seed: 6 }],
  ['with penalties', { temperature: 0, repetitionPenalty: 1.2, presencePenalty: 0.3, frequencyPenalty: 0.2 }],
  ['with top log-probabilities', { temperature: 0.7, topLogprobs: 4, seed: 7 }],
]

async function ask(model: Model, prompt: readonly number[], sampling: GenerateOptions) {
  const all = { maxTokens: 120, ignoreEos: true, logprobs: true, ...sampling }
  const { tokens, logprobs, topLogprobs, usage } = await model.generate(prompt, all).result
  return { bits: { tokens, logprobs, topLogprobs }, usage }
}

/** Of every third token another. */
const spoilt = (answer: Int32Array) => answer.map((token, index) => (index % 3 === 2 ? (token + 1) % 400 : token))

describe.skipIf(gpus.length === 0)('the same bits with drafts', () => {
  let plain: Model
  beforeAll(async () => {
    plain = await load(demo, { ...options, placement: 'resident', maxSequences: 40 })
  })
  afterAll(() => plain?.close())

  const places: [string, LoadOptions][] = [
    ['resident', { placement: 'resident' }],
    ['streamed', { placement: 'streamed', ring: 3, poison: true }],
  ]
  describe.each(places)('%s', (_, placement) => {
    let model: Model
    beforeAll(async () => {
      model = await load(demo, { ...options, ...placement, maxSequences: 40 })
    })
    afterAll(() => model?.close())

    test.each(samplings)('%s', async (_, sampling) => {
      const expected = await ask(plain, tokensFrom(3, 40), { ...sampling, speculation: OFF })
      expect(expected.usage.draftedTokens).toBeUndefined()
      // Alone, and with every number of rows that is a shape of its own.
      for (const tokens of [1, 2, 3, 5, 7, 8, 15, 16, 31, 63]) {
        foresee(model, spoilt(Int32Array.from(expected.bits.tokens)))
        const { bits, usage } = await ask(model, tokensFrom(3, 40), {
          ...sampling,
          speculation: { method: 'ngram', tokens },
        })
        expect(bits).toEqual(expected.bits)
        expect(usage.acceptedTokens).toBeGreaterThan(30)
      }
      foresee(model, Int32Array.from(expected.bits.tokens))
      const auto = await ask(model, tokensFrom(3, 40), { ...sampling, speculation: { method: 'auto' } })
      foresee(model, undefined)
      expect(auto.bits).toEqual(expected.bits)
      expect(auto.usage.acceptedTokens).toBeGreaterThan(60)
    })

    test('n-grams, in a crowd of 32', async () => {
      const asked = Array.from({ length: 32 }, (_, r) => ({ prompt: again(r), sampling: samplings[r % 5]![1] }))
      const expected = await Promise.all(
        asked.map((one) => ask(plain, one.prompt, { ...one.sampling, speculation: OFF })),
      )
      const methods: Speculation[] = [{ method: 'ngram' }, { method: 'auto' }, {}, OFF]
      const found = await Promise.all(
        asked.map((one, r) => ask(model, one.prompt, { ...one.sampling, speculation: methods[r % 4] })),
      )
      for (const [r, { bits }] of found.entries()) expect(bits, `request ${r}`).toEqual(expected[r]!.bits)
      expect(found.some(({ usage }) => usage.acceptedTokens! > 0)).toBe(true)
    })

    test('under a constraint', async () => {
      const constrained: GenerateOptions = {
        temperature: 0,
        maxTokens: 200,
        constraint: { regex: '( one two three){20}' },
      }
      const without = await plain.generate('Count:', { ...constrained, speculation: OFF }).result
      const drafted = await model.generate('Count:', { ...constrained, speculation: { method: 'ngram' } }).result
      expect(drafted.tokens).toEqual(without.tokens)
      expect(drafted.usage.acceptedTokens).toBeGreaterThan(20)
    })
  })

  test('of sequences that are preempted and brought back', async () => {
    await using tight = await load(demo, { ...options, placement: 'resident', kvTokens: 640 })
    const expected = await Promise.all(
      [0, 1, 2, 3, 4, 5].map((r) => ask(plain, again(r), { seed: r, speculation: OFF })),
    )
    const found = await Promise.all([0, 1, 2, 3, 4, 5].map((r) => ask(tight, again(r), { seed: r, maxTokens: 120 })))
    expect(tight.stats.sequences.preemptions).toBeGreaterThan(0)
    for (const [r, { bits }] of found.entries()) expect(bits, `request ${r}`).toEqual(expected[r]!.bits)
  })

  // The model drafts for itself: right as often as its own sums agree with those of its other passes.
  const beside: [string, LoadOptions][] = [
    ['beside a streamed model', { placement: 'streamed', ring: 3, draft: demo }],
    ['beside a resident model', { placement: 'resident', draft: demo }],
    ['that is streamed too', { placement: 'streamed', ring: 3, draft: { model: demo, placement: 'streamed' } }],
    ['on the CPU', { placement: 'streamed', ring: 3, draft: { model: demo, device: 'cpu' } }],
    ['in the same arena', { placement: 'shared', draft: { model: demo, placement: 'shared' } }],
    [
      'in an arena with room for half of it',
      { placement: 'shared', arena: '4MiB', draft: { model: demo, placement: 'shared' } },
    ],
  ]
  test.each(beside)('of a draft model %s', async (_, placement) => {
    await using model = await load(demo, { ...options, ...placement, maxSequences: 40 })
    for (const [name, sampling] of samplings) {
      const expected = await ask(plain, tokensFrom(3, 40), { ...sampling, speculation: OFF })
      const found = await ask(model, tokensFrom(3, 40), { ...sampling, speculation: { method: 'draft', tokens: 5 } })
      expect(found.bits, name).toEqual(expected.bits)
      // Penalties do not know of the drafts before.
      if (name === 'greedy') expect(found.usage.acceptedTokens! / found.usage.draftedTokens!).toBeGreaterThan(0.9)
      const auto = await ask(model, tokensFrom(3, 40), { ...sampling, speculation: { method: 'auto' } })
      expect(auto.bits, name).toEqual(expected.bits)
    }
    const asked = Array.from({ length: 32 }, (_, r) => ({ prompt: again(r % 7), sampling: samplings[r % 5]![1] }))
    const expected = await Promise.all(
      asked.map((one) => ask(plain, one.prompt, { ...one.sampling, speculation: OFF })),
    )
    const found = await Promise.all(
      asked.map((one, r) => {
        const method = (['draft', 'auto', 'ngram', 'off'] as const)[r % 4]!
        return ask(model, one.prompt, { ...one.sampling, speculation: { method, ...(r % 3 && { tokens: 1 + r }) } })
      }),
    )
    for (const [r, { bits }] of found.entries()) expect(bits, `request ${r}`).toEqual(expected[r]!.bits)
  })

  test('whatever the schedule', async () => {
    const random = randomOf(Number(process.env.MILLRACE_SEED ?? 1))
    const asked = Array.from({ length: 24 }, (_, r) => ({
      prompt: r % 2 === 0 ? again(r) : tokensFrom(r, 1 + r * 5),
      sampling: { ...samplings[r % 5]![1], seed: r, maxTokens: 1 + ((r * 7) % 60) } as GenerateOptions,
    }))
    const expected = await Promise.all(
      asked.map((one) => ask(plain, one.prompt, { ...one.sampling, speculation: OFF })),
    )
    await using streamed = await load(demo, { ...options, placement: 'streamed', ring: 3, poison: true, draft: demo })
    await using resident = await load(demo, { ...options, placement: 'resident', kvTokens: 640, draft: demo })
    const half = Array.from({ length: plain.spec.layers }, (_, layer) => (layer % 2 === 0 ? 'resident' : 'streamed'))
    await using mixed = await load(demo, { ...options, placement: half as PlacementHome[], kvTokens: 1024 })
    await using shared = await load(demo, {
      ...options,
      placement: 'shared',
      arena: '6MiB',
      turnMs: 2,
      draft: { model: demo, placement: 'shared' },
    })
    const models = [streamed, resident, mixed, shared]
    for (let schedule = 0; schedule < schedules; schedule++) {
      const model = models[random(4)]!
      const budget =
        model === resident ? undefined : (model === shared ? ['2MiB', '9MiB'] : ['60MiB', '200MiB'])[random(2)]
      const chosen = Array.from({ length: 1 + random(12) }, () => random(24))
      const running = chosen.map((r) => {
        const methods = ['auto', 'ngram', 'off', ...(model === mixed ? [] : ['draft'])] as Speculation['method'][]
        const speculation = { method: methods[random(methods.length)], tokens: 1 + random(20) }
        return ask(model, asked[r]!.prompt, { ...asked[r]!.sampling, speculation })
      })
      // Whether it fits depends on what the plan takes beside weights.
      if (budget !== undefined && random(4) === 0) await model.setBudget(budget).catch(() => {})
      for (const [at, { bits }] of (await Promise.all(running)).entries()) {
        expect(bits, `schedule ${schedule}, request ${chosen[at]}`).toEqual(expected[chosen[at]!]!.bits)
      }
    }
  })
})
