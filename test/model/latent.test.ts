/** Attention by latents: crowds, preemption, prefixes, what is counted, and where it is refused. */
import { afterAll, describe, expect, test } from 'vitest'
import { buildDecoder, type DecoderShape } from '../../lib/checkpoint/decoder.ts'
import { inspect, load, type Model, plan } from '../../lib/index.ts'
import { readMachine } from '../../lib/model/machine.ts'
import { runtime } from '../../lib/model/runtime.ts'
import { requireShape } from '../../lib/model/shapes.ts'
import { SYNTHETIC_DEFAULTS } from '../../lib/model/synthetic.ts'
import { machineOf } from '../../lib/plan/described.ts'
import { makePlan } from '../../lib/plan/plan.ts'
import { familyFolder, removeFolders } from '../goldens/folders.ts'

const options = { device: 'cpu', contextLength: 160, cache: false, threads: 2 } as const
const NAMES = ['deepseek-v3-gptq-g32', 'deepseek-v2-bf16', 'glm4-moe-lite-bf16']

afterAll(removeFolders)

const prompt = (seed: number, length: number) => Array.from({ length }, (_, at) => (seed * 131 + at * at * 7) % 512)
const seeds = Array.from({ length: 12 }, (_, seed) => seed)

async function answer(model: Model, tokens: number[]) {
  const asked = { maxTokens: 60, temperature: 0, ignoreEos: true, logprobs: true } as const
  const found = await model.generate(tokens, asked).result
  return { tokens: [...found.tokens], logprobs: [...found.logprobs!] }
}

describe('latents', () => {
  test.each(NAMES)('%s: alone, in a crowd and pushed out of the cache, the same bits', async (name) => {
    const path = familyFolder(name)
    await using anew = await load(path, { ...options, prefixReuse: false, threads: 1 })
    await using model = await load(path, { ...options, kvTokens: 320, batch: 12 })
    const together = await Promise.all(seeds.map((seed) => answer(model, prompt(seed, 5 + 5 * seed))))
    for (const seed of [0, 5, 11]) expect(together[seed]).toEqual(await answer(anew, prompt(seed, 5 + 5 * seed)))
    expect(model.stats.sequences.preemptions).toBeGreaterThan(0)
  })

  test('a prefix is found, to the same bits', async () => {
    const path = familyFolder('deepseek-v3-bf16')
    await using anew = await load(path, { ...options, prefixReuse: false })
    await using model = await load(path, options)
    const first = await answer(model, prompt(1, 40))
    const next = [...prompt(1, 40), ...first.tokens, 7, 8]
    expect(await answer(model, next.slice(0, 95))).toEqual(await answer(anew, next.slice(0, 95)))
    expect(model.stats.prefixCache.reusedTokens).toBe(80)
  })

  test('one row of the cache is keys and values of all heads', async () => {
    const path = familyFolder('deepseek-v3-bf16')
    const { kvBytesPerToken, spec } = await inspect(path)
    // In three layers 32 numbers of the latent and 8 that turn, of two bytes.
    expect(kvBytesPerToken).toBe(3 * (32 + 8) * 2)
    expect(spec).toMatchObject({ heads: 4, headDim: 24 })
  })

  test('a GPU keeps one row of a token too', async () => {
    const planned = await plan(familyFolder('deepseek-v3-bf16'), { gpu: { memory: '24GiB' }, contextLength: 160 })
    expect(planned.kvBytes).toBe(planned.kvTokens * 3 * (32 + 8) * 2)
  })

  test('a GPU refuses larger latents than its kernels have, by name', () => {
    const shape = requireShape('deepseek-v2-lite')
    const larger: DecoderShape = {
      ...shape,
      layer: (index) => ({ ...shape.layer(index), latent: { ...shape.layer(index).latent!, rank: 768 } }),
    }
    const refused = { code: 'CHECKPOINT_UNSUPPORTED', message: expect.stringContaining('have 768, 64 and 128') }
    const { native } = runtime()
    const planned = ({ program }: ReturnType<typeof buildDecoder>) =>
      makePlan(
        program,
        native.planSynthetic(program, SYNTHETIC_DEFAULTS),
        { contextLength: 4096 },
        machineOf({ gpu: { memory: '80GiB' } }, readMachine(native)),
      )
    expect(() => planned(buildDecoder(larger))).toThrow(expect.objectContaining(refused))
    const { kvBytes, kvTokens } = planned(buildDecoder(shape))
    expect(kvBytes).toBe(kvTokens * 27 * 576 * 2)
  })
})
