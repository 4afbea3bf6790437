/** The product against transformers' goldens and against the tests' own float64 model. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, type Model } from '../../lib/index.ts'
import { ReferenceModel, relativeError } from '../reference/transformer.ts'
import { certainGreedy, type Golden, modelFolder, readGoldens } from './golden.ts'

// The float64 model takes seconds a token for large ones: they are held to transformers alone.
const LARGE_VOCABULARY = 10_000
const LARGEST_ERROR = 2e-3
// Of one position: rounding in the float16 KV cache makes up to 5e-3 in a few of thousands, a fault far more.
const LARGEST_ERROR_OF_A_POSITION = 1e-2

const longest = ({ sequences, greedy }: Golden): number =>
  Math.max(...sequences.map((s) => s.tokens.length), ...greedy.map((g) => g.prompt.length + g.tokens.length))

for (const golden of readGoldens()) {
  const dir = modelFolder(golden.model)
  const large = golden.vocab > LARGE_VOCABULARY
  const placements = large ? (['streamed'] as const) : (['resident', 'streamed'] as const)
  const title = `${golden.model}${dir ? '' : ' (not found: set MILLRACE_MODELS to its parent folder)'}`
  describe.skipIf(!dir)(title, () => {
    let reference: { logits: Float64Array[]; name: string }[] = []
    beforeAll(() => {
      if (large) return
      const model = new ReferenceModel(dir!)
      reference = golden.sequences.map(({ name, tokens }) => ({ name, logits: model.logits(tokens) }))
    })

    describe.each(placements)('%s', (placement) => {
      let model: Model
      beforeAll(async () => {
        model = await load(dir!, { device: 'cpu', placement, contextLength: longest(golden), poison: true })
      })
      afterAll(() => model?.close())

      test.each(golden.sequences)('logits and log-probabilities of $name', async (sequence) => {
        const { tokens, logprobs, positions, lastLogits } = sequence
        const scored = await model.score(tokens, { logits: true })
        const row = (i: number) => scored.logits!.subarray(i * golden.vocab, (i + 1) * golden.vocab)
        expect(scored.logits!.length).toBe(tokens.length * golden.vocab)
        expect(scored.logprobs.length).toBe(tokens.length - 1)

        for (const { position, ids, logits } of positions) {
          const found = Float32Array.from(ids, (id) => row(position)[id]!)
          expect(relativeError(found, logits), `position ${position}`).toBeLessThan(LARGEST_ERROR_OF_A_POSITION)
        }
        if (lastLogits) {
          expect(relativeError(row(tokens.length - 1), lastLogits)).toBeLessThan(LARGEST_ERROR_OF_A_POSITION)
        }
        expect(relativeError(scored.logprobs, logprobs), 'log-probabilities').toBeLessThan(LARGEST_ERROR)

        const expected = reference.find(({ name }) => name === sequence.name)?.logits
        if (!expected) return
        expected.forEach((logits, i) => {
          expect(relativeError(row(i), logits), `position ${i}, float64`).toBeLessThan(LARGEST_ERROR_OF_A_POSITION)
        })
        const all = Float64Array.from(expected.flatMap((logits) => [...logits]))
        expect(relativeError(scored.logits!, all), 'all positions, float64').toBeLessThan(LARGEST_ERROR)
      })

      test.each(golden.greedy)('greedy continuation', async (whole) => {
        const { prompt, tokens } = certainGreedy(whole, 0.01)
        expect(tokens.length).toBeGreaterThan(10)
        const { result } = model.generate(prompt, { maxTokens: tokens.length, temperature: 0, ignoreEos: true })
        expect((await result).tokens).toEqual(tokens)
      })
    })
  })
}
