import { expect, test } from 'vitest'
import { SHAPES } from '../../lib/model/shapes.ts'
import { loadSynthetic } from '../../lib/model/synthetic.ts'

test('random weights answer tokens with tokens, the same whatever the placement', async () => {
  const spec = { ...SHAPES['smollm2-135m']!, layers: 3 }
  const options = { contextLength: 64, maxSequences: 1 }
  const answers = []
  for (const placement of ['resident', 'streamed'] as const) {
    await using model = await loadSynthetic(
      'three layers',
      spec,
      { ...options, placement },
      { head: 'q4', zeros: true },
    )
    const { tokens, text } = await model.generate([1, 2, 3], { maxTokens: 8 }).result
    expect({ count: tokens.length, text }).toEqual({ count: 8, text: '' })
    answers.push(tokens)
    await expect(model.generate('text').result).rejects.toMatchObject({ code: 'TOKENIZER_INVALID' })
  }
  expect(answers[1]).toEqual(answers[0])
})
