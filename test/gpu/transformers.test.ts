/**
 * The GPU against transformers in float32 on the same GPU. Needs a device, Python with torch and transformers, and
 * MILLRACE_ORACLE, the path of a module that reads checkpoints into transformers (transformers_logits.py says how).
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { load, probe } from '../../lib/index.ts'
import { relativeError } from '../reference/transformer.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const oracle = process.env.MILLRACE_ORACLE
const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)
else if (!oracle) console.warn('test/gpu/transformers.test.ts is skipped: MILLRACE_ORACLE is not set')

const folders = [
  'models/demo',
  ...['f16-untied', 'gptq-v1-sym-g128', 'llama-ct-asym-g16', 'f32-llama3-rope'],
  ...['qwen2-f16-tied', 'qwen2-gptq-v1-sym-g32', 'qwen2-ct-asym-g32-group-order'],
  ...['qwen3-bf16-tied', 'qwen3-awq-g128', 'qwen3-gptq-v2-asym-g32-rules'],
].map((name) => join(root, name.includes('/') ? name : `test/goldens/models/${name}`))

describe.skipIf(gpus.length === 0 || !oracle)('transformers on the same GPU', () => {
  const tokens = Array.from({ length: 150 }, (_, i) => (i * i * 31 + i * 17 + 5) % 250)
  let out: string
  beforeAll(() => {
    out = mkdtempSync(join(tmpdir(), 'millrace-transformers-'))
    const asked = join(out, 'tokens.json')
    writeFileSync(asked, JSON.stringify(Object.fromEntries(folders.map((folder) => [folder, tokens]))))
    const script = join(root, 'test/gpu/transformers_logits.py')
    const { status, stdout, stderr } = spawnSync('python3', [script, oracle!, asked, out], { encoding: 'utf8' })
    if (status !== 0) throw new Error(`transformers failed: ${stderr}`)
    console.log(stdout.trim())
  }, 300_000)
  afterAll(() => rmSync(out, { recursive: true, force: true }))

  test.each(folders)('%s', async (folder) => {
    const bytes = readFileSync(join(out, `${basename(folder)}.f32`))
    const expected = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
    for (const placement of ['resident', 'streamed'] as const) {
      await using model = await load(folder, { device: 'cuda', placement, contextLength: 160 })
      const { logits } = await model.score(tokens, { logits: true })
      const error = relativeError(logits!, expected)
      console.log(`${basename(folder)}, ${placement}: relative error ${error.toExponential(1)}`)
      expect(error).toBeLessThan(5e-3)
    }
  })
})
