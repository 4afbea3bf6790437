/** embed() against transformers' last hidden states, pooled (make_embeddings.py), and against the tests' own float64 model. */
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { load } from '../../lib/index.ts'
import { ROOT } from '../built.ts'
import { ReferenceModel, relativeError } from '../reference/transformer.ts'
import { familyFolder, removeFolders } from './folders.ts'

afterAll(removeFolders)

interface Golden {
  tokens: number[]
  mean: string
  last: string
}

const path = join(ROOT, 'test', 'goldens', 'embeddings', 'golden.json')
const { made: _, ...goldens } = JSON.parse(readFileSync(path, 'utf8')) as Record<string, Golden>

const floats = (base64: string) => new Float32Array(Uint8Array.from(Buffer.from(base64, 'base64')).buffer)

/** As goldens of logits have it. */
const LARGEST_ERROR = 2e-3

describe.each(Object.entries(goldens))('%s', (folder, golden) => {
  const isFamily = folder.includes('families')

  test.each(['resident', 'streamed'] as const)('%s', async (placement) => {
    const dir = isFamily ? familyFolder(basename(folder)) : join(ROOT, folder)
    await using model = await load(dir, { device: 'cpu', placement, poison: true })
    for (const pooling of ['mean', 'last'] as const) {
      const { embeddings, usage } = await model.embed(golden.tokens, { pooling })
      expect(usage).toEqual({ promptTokens: golden.tokens.length })
      expect(embeddings).toHaveLength(1)
      expect(relativeError(embeddings[0]!, floats(golden[pooling])), pooling).toBeLessThan(LARGEST_ERROR)
      if (isFamily) continue
      const rows = new ReferenceModel(dir).hidden(golden.tokens)
      expect(relativeError(embeddings[0]!, pooled(rows, pooling)), `${pooling}, float64`).toBeLessThan(LARGEST_ERROR)
    }
  })
})

function pooled(rows: readonly Float64Array[], pooling: 'mean' | 'last'): Float64Array {
  const chosen = pooling === 'last' ? rows.slice(-1) : rows
  const sum = chosen[0]!.map((_, i) => chosen.reduce((total, row) => total + row[i]!, 0))
  const length = Math.hypot(...sum)
  return sum.map((value) => value / length)
}
