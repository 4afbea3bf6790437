/** Layers that keep a state in the place of keys and values: crowds, preemption, what is refused and what is told. */
import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { inspect, load, type Model, plan, type Speculation } from '../../lib/index.ts'
import { foresee } from '../../lib/model/foreseen.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'
import { temporaryFolder } from '../lib/folder.ts'
import { readFolder, writeSafetensors } from '../reference/safetensors.ts'

const options = { device: 'cpu', contextLength: 160, cache: false, threads: 2 } as const
const NAMES = ['qwen3-next-gptq-g32', 'qwen35-bf16', 'qwen35-moe-bf16']

afterAll(removeFolders)

/** Tokens of a plain recurrence: any will do. */
const prompt = (seed: number, length: number) => Array.from({ length }, (_, at) => (seed * 131 + at * at * 7) % 512)

const answer = async (model: Model, seed: number, maxTokens = 24) => {
  const asked = { maxTokens, temperature: 0, ignoreEos: true, logprobs: true } as const
  const { tokens, logprobs } = await model.generate(prompt(seed, 3 + (seed % 9)), asked).result
  return { tokens, logprobs: [...logprobs!] }
}
const seeds = (count: number) => Array.from({ length: count }, (_, seed) => seed)

describe('states', () => {
  test.each(NAMES)('%s: alone or in a crowd of 32, the same bits', async (name) => {
    await using model = await load(familyFolder(name), { ...options, maxSequences: 32, batch: 32 })
    const together = await Promise.all(seeds(32).map((seed) => answer(model, seed)))
    // The states that they find now are those of others.
    for (const seed of [0, 7, 31]) expect(await answer(model, seed)).toEqual(together[seed])
  })

  test.each([
    [0, 'all'],
    ['16MiB', 'none'],
  ] as const)('with kvSwap %s, %s of those pushed out are computed again, to the same bits', async (kvSwap, again) => {
    const path = familyFolder('qwen35-bf16')
    await using whole = await load(path, options)
    const alone: Awaited<ReturnType<typeof answer>>[] = []
    for (const seed of seeds(4)) alone.push(await answer(whole, seed, 120))
    await using model = await load(path, { ...options, kvTokens: 192, kvSwap })
    expect(await Promise.all(seeds(4).map((seed) => answer(model, seed, 120)))).toEqual(alone)
    const { preemptions, recomputations } = model.stats.sequences
    expect(preemptions).toBeGreaterThan(0)
    expect(recomputations).toBe(again === 'all' ? preemptions : 0)
    expect(model.memory.savedKvBytes).toBe(0)
  })

  test('one that is cancelled leaves nothing to the next', async () => {
    const path = familyFolder('qwen35-moe-bf16')
    await using model = await load(path, { ...options, maxSequences: 1 })
    const expected = await answer(model, 5)
    for (const seed of seeds(3)) {
      const controller = new AbortController()
      const stream = model.generate(prompt(seed, 40), { maxTokens: 100, ignoreEos: true, signal: controller.signal })
      const ended = stream.result.catch((error) => error)
      for await (const _ of stream) {
        controller.abort()
        break
      }
      await ended
      expect(await answer(model, 5)).toEqual(expected)
    }
  })

  test('spread over two devices, the answers are those of one', async () => {
    const path = familyFolder('qwen35-bf16')
    await using one = await load(path, options)
    await using two = await load(path, { ...options, device: ['cpu', 'cpu'] })
    for (const seed of seeds(2)) expect(await answer(two, seed)).toEqual(await answer(one, seed))
  })

  test('experts in one tensor for gates and ups, as they are published, are the same experts', async () => {
    const path = familyFolder('qwen35-moe-bf16')
    const folder = await temporaryFolder({})
    for (const file of ['config.json', 'tokenizer.json', 'tokenizer_config.json']) {
      copyFileSync(join(path, file), join(folder, file))
    }
    const apart = readFolder(path)
    const joined: typeof apart = new Map([...apart].filter(([name]) => !name.includes('.experts.')))
    for (const layer of seeds(4)) {
      const experts = `model.layers.${layer}.mlp.experts`
      const of = (expert: number, part: string) => apart.get(`${experts}.${expert}.${part}_proj.weight`)!
      for (const [name, parts] of [
        ['gate_up_proj', ['gate', 'up']],
        ['down_proj', ['down']],
      ] as const) {
        const tensors = seeds(8).flatMap((expert) => parts.map((part) => of(expert, part)))
        const [rows, columns] = tensors[0]!.shape as [number, number]
        const data = Buffer.concat(tensors.map((tensor) => tensor.data))
        joined.set(`${experts}.${name}`, { dtype: 'BF16', shape: [8, parts.length * rows, columns], data })
      }
    }
    writeSafetensors(join(folder, 'model.safetensors'), joined)
    await using one = await load(path, options)
    await using other = await load(folder, options)
    expect(await answer(other, 6)).toEqual(await answer(one, 6))
  })

  test.each(NAMES)(
    '%s: turns that go on, part and repeat find what earlier ones computed, to the same bits',
    async (name) => {
      const path = familyFolder(name)
      await using anew = await load(path, { ...options, prefixReuse: false })
      await using model = await load(path, options)
      const ask = async (of: Model, tokens: number[]) => {
        const asked = { maxTokens: 24, temperature: 0, ignoreEos: true, logprobs: true } as const
        const answer = await of.generate(tokens, asked).result
        return { tokens: [...answer.tokens], logprobs: [...answer.logprobs!] }
      }
      const turn = async (tokens: number[], reused: number) => {
        const before = model.stats.prefixCache.reusedTokens
        const found = await ask(model, tokens)
        expect(found).toEqual(await ask(anew, tokens))
        expect(model.stats.prefixCache.reusedTokens - before).toBe(reused)
        return [...tokens, ...found.tokens]
      }
      const first = await turn(prompt(3, 40), 0)
      // 64 tokens, of which the last was not computed.
      const second = await turn([...first, ...prompt(4, 9)], 48)
      await turn([...second, ...prompt(5, 9)], 96)
      await turn([...first, ...prompt(6, 12)], 48)
      await turn(prompt(3, 40), 32)
      expect(anew.stats.prefixCache.reusedTokens).toBe(0)
    },
  )

  test('without copies of states nothing is reused', async () => {
    await using model = await load(familyFolder('qwen35-bf16'), { ...options, stateCopies: 0, maxSequences: 1 })
    const tokens = prompt(8, 60)
    for (const _ of [0, 1]) await model.generate(tokens, { maxTokens: 4, ignoreEos: true }).result
    expect(model.plan.kv[0]).toMatchObject({ sequences: 1, copies: 0 })
    expect(model.stats.prefixCache).toMatchObject({ promptTokens: 120, reusedTokens: 0 })
  })

  test.each(NAMES)('%s: drafts, right and wrong, alone and in a crowd, change no bit', async (name) => {
    await using model = await load(familyFolder(name), options)
    const ask = async (seed: number, speculation: Speculation) => {
      const asked = { maxTokens: 24, temperature: 0, ignoreEos: true, logprobs: true, speculation } as const
      const { tokens, logprobs, usage } = await model.generate(prompt(seed, 3 + (seed % 9)), asked).result
      return { bits: { tokens: [...tokens], logprobs: [...logprobs!] }, usage }
    }
    const alone: Awaited<ReturnType<typeof ask>>[] = []
    for (const seed of seeds(6)) alone.push(await ask(seed, { method: 'off' }))
    for (const [wrong, accepted] of [
      [0, 23],
      [3, 8],
      [1, 0],
    ] as const) {
      const spoilt = alone[2]!.bits.tokens.map((token, at) =>
        wrong > 0 && at % wrong === 0 ? (token + 1) % 512 : token,
      )
      foresee(model, Int32Array.from(spoilt))
      const { bits, usage } = await ask(2, { method: 'ngram', tokens: 4 })
      expect(bits).toEqual(alone[2]!.bits)
      expect(usage.draftedTokens).toBeGreaterThan(0)
      if (wrong === 0) expect(usage.acceptedTokens).toBeGreaterThanOrEqual(accepted - 5)
      else expect(usage.acceptedTokens).toBeGreaterThanOrEqual(accepted)
      if (wrong === 1) expect(usage.acceptedTokens).toBe(0)
      // Of the others' answers it knows nothing.
      const crowd = await Promise.all(seeds(6).map((seed) => ask(seed, { method: 'ngram', tokens: 1 + seed })))
      for (const [seed, one] of crowd.entries()) expect(one.bits).toEqual(alone[seed]!.bits)
    }
  })

  test('a pass has no more drafts than there are states for', async () => {
    const path = familyFolder('qwen35-bf16')
    const expected = await (async () => {
      await using model = await load(path, options)
      return answer(model, 4)
    })()
    // The prompt's pass gives the first of 24 tokens; no drafts are made beyond the last.
    for (const [stateDrafts, passes] of [
      [0, 24],
      [1, 1 + 12],
      [3, 1 + 6],
      [8, 1 + 3],
    ] as const) {
      const asked = { stateDrafts, speculation: { method: 'ngram', tokens: 16 } } as const
      await using model = await load(path, { ...options, ...asked })
      foresee(model, Int32Array.from(expected.tokens))
      expect(await answer(model, 4)).toEqual(expected)
      expect(model.stats.steps).toBe(passes)
      expect(model.plan.kv[0]).toMatchObject({ drafts: stateDrafts })
    }
  })

  test('a draft model is no hybrid, whom it drafts for may be one', async () => {
    const path = familyFolder('qwen35-bf16')
    const refused = { code: 'INVALID_ARGUMENT', message: expect.stringContaining('draft') }
    await expect(load(path, { ...options, draft: path })).rejects.toMatchObject(refused)
    await expect(load(familyFolder('qwen3-moe-bf16'), { ...options, draft: path })).rejects.toMatchObject(refused)
    await using alone = await load(path, options)
    await using model = await load(path, { ...options, draft: familyFolder('qwen3-moe-bf16') })
    for (const seed of seeds(3)) expect(await answer(model, seed)).toEqual(await answer(alone, seed))
    const asked = { maxTokens: 24, temperature: 0, ignoreEos: true, speculation: { method: 'draft' } } as const
    const { usage } = await model.generate(prompt(1, 4), asked).result
    expect(usage.draftedTokens).toBeGreaterThan(0)
  })

  test('who takes no drafts has no states for them', async () => {
    await using model = await load(familyFolder('qwen35-bf16'), { ...options, speculation: { method: 'off' } })
    expect(model.plan.kv[0]).toMatchObject({ drafts: 0 })
  })

  test('inspect() and plan() count them', async () => {
    const path = familyFolder('qwen35-bf16')
    const { spec, units, kvBytesPerToken } = await inspect(path)
    expect(spec).toMatchObject({ layers: 4, stateLayers: 3, heads: 4, kvHeads: 2 })
    expect(units.map(({ name }) => name).filter((name) => !name.startsWith('feed-forward'))).toEqual([
      'delta-net 0',
      'attention 1',
      'delta-net 2',
      'delta-net 3',
      'head',
    ])
    // One layer of attention, 2 heads of 16, keys and values of two bytes.
    expect(kvBytesPerToken).toBe(2 * 2 * 16 * 2)
    const { kv, kvBytes } = await plan(path, { device: 'cpu', contextLength: 160, maxSequences: 4 })
    const [states, attention] = kv
    expect(attention).toEqual({ layers: 1, window: 0, type: 'f16', tokens: 4 * 160 })
    // Three rows of the convolution's 192 columns, and a matrix of 16 x 32 for each of 4 heads.
    const bytes = 3 * (3 * 192 + 4 * 16 * 32) * 4
    expect(states).toEqual({ layers: 3, window: 0, type: 'f32', tokens: 0, sequences: 4, copies: 4, drafts: 4 })
    expect(kvBytes).toBe(4 * 160 * kvBytesPerToken + 12 * bytes)
    const named = { stateCopies: 1, stateDrafts: 2, acceptance: 1 } as const
    const fewer = await plan(path, { device: 'cpu', contextLength: 160, maxSequences: 4, ...named })
    expect(fewer.kvBytes).toBe(4 * 160 * kvBytesPerToken + 7 * bytes)
    expect(fewer.prediction.drafted!.drafts).toBeLessThanOrEqual(2)
  })

  test('a plan for a GPU has room for the states', async () => {
    const gpu = { memory: '64GiB' } as const
    const { kv, kvBytes } = await plan('qwen3.5-35b-a3b', { gpu, contextLength: 4096, maxSequences: 4 })
    // Three columns of 8,192, and 32 matrices of 128 x 128, in 30 layers: 66 MB a sequence, of which five are 16,384 tokens.
    const bytes = 30 * (3 * 8192 + 32 * 128 * 128) * 4
    expect(kv).toEqual([
      { layers: 30, window: 0, type: 'f32', tokens: 0, sequences: 5, copies: 5, drafts: 5 },
      { layers: 10, window: 0, type: 'f16', tokens: 4 * 4096 },
    ])
    expect(kvBytes).toBe(15 * bytes + 4 * 4096 * 10 * 2 * 2 * 256 * 2)
  })
})
