/** The tests' own float64 model against transformers: what the product is then held to. */
import { describe, expect, test } from 'vitest'
import { logSumExp, ReferenceModel, relativeError } from '../reference/transformer.ts'
import { certainGreedy, modelFolder, readGoldens } from './golden.ts'

// Plain loops take seconds a token for large models: these many tokens are enough there.
const LARGE_VOCABULARY = 10_000
const TOKENS_OF_LARGE = 5

for (const golden of readGoldens()) {
  const dir = modelFolder(golden.model)
  const large = golden.vocab > LARGE_VOCABULARY
  describe.skipIf(!dir)(`${golden.model}${dir ? '' : ' (not found: set MILLRACE_MODELS to its parent folder)'}`, () => {
    let model: ReferenceModel
    const reference = () => {
      model ??= new ReferenceModel(dir!)
      return model
    }

    test.each(golden.sequences)('$name', ({ tokens, logprobs, positions, lastLogits }) => {
      const count = large ? TOKENS_OF_LARGE : tokens.length
      const rows = reference().logits(tokens.slice(0, count))
      for (let i = 0; i + 1 < count; i++) {
        const logprob = rows[i]![tokens[i + 1]!]! - logSumExp(rows[i]!)
        expect(Math.abs(logprob - logprobs[i]!), `log-probability of token ${i + 1}`).toBeLessThan(1e-4)
      }
      for (const { position, ids, logits, logSumExp: normaliser } of positions) {
        if (position >= count) continue
        const row = rows[position]!
        const error = relativeError(
          Float64Array.from(ids, (id) => row[id]!),
          logits,
        )
        expect(error, `logits of position ${position}`).toBeLessThan(1e-5)
        expect(Math.abs(logSumExp(row) - normaliser)).toBeLessThan(1e-4)
      }
      if (lastLogits && count === tokens.length) expect(relativeError(rows.at(-1)!, lastLogits)).toBeLessThan(1e-5)
    })

    test.skipIf(large).each(golden.greedy)('greedy from $prompt.length tokens', (whole) => {
      const { prompt, tokens, margins } = certainGreedy(whole, 1e-3)
      expect(tokens.length).toBeGreaterThan(10)
      const continuation = reference().greedy(prompt, tokens.length)
      expect(continuation.tokens).toEqual(tokens)
      const furthest = Math.max(...margins.map((m, i) => Math.abs(m - continuation.margins[i]!)))
      expect(furthest).toBeLessThan(1e-3)
    })
  })
}

test('there are goldens', () => {
  expect(readGoldens().length).toBeGreaterThanOrEqual(9)
})
