/**
 * The plans and the code of other GPUs on the one that is here: with their shared memory and without what only newer
 * ones have, numbers are those of the CPU twin and a row's bits do not depend on the rows beside it. (Of a build for
 * PTX of sm_75 alone, MILLRACE_CUDA_ARCHITECTURES=75-virtual, this is sm_75's code on any GPU.) Needs a device; elsewhere
 * it says why it does not run.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { probe } from '../../lib/index.ts'
import { build, ROOT } from '../built.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

async function run(program: string[], environment: Record<string, string>): Promise<string> {
  const child = spawn(process.execPath, program, { cwd: ROOT, env: { ...process.env, ...environment } })
  let [out, err] = ['', '']
  child.stdout.on('data', (chunk) => (out += chunk))
  child.stderr.on('data', (chunk) => (err += chunk))
  const code = await new Promise((resolve) => child.on('close', resolve))
  if (code !== 0) throw new Error(`ended with ${code}: ${err}`)
  return out
}

const KiB = 1024
const kinds = [
  ['as it is', {}],
  ['a T4: 64 KiB, sm_75', { MILLRACE_TEST_SHARED_BYTES: `${64 * KiB}`, MILLRACE_TEST_CAPABILITY: '7.5' }],
  ['an RTX 30: 99 KiB, sm_86', { MILLRACE_TEST_SHARED_BYTES: `${99 * KiB}`, MILLRACE_TEST_CAPABILITY: '8.6' }],
  ['an A100: 163 KiB, sm_80', { MILLRACE_TEST_SHARED_BYTES: `${163 * KiB}`, MILLRACE_TEST_CAPABILITY: '8.0' }],
  ['an RTX 50: 99 KiB, with clusters', { MILLRACE_TEST_SHARED_BYTES: `${99 * KiB}` }],
  ['64 KiB, with clusters', { MILLRACE_TEST_SHARED_BYTES: `${64 * KiB}` }],
] as const

describe.skipIf(gpus.length === 0)('plans of', () => {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-portable-'))
  const twin = join(folder, 'twin.json')
  const child = join('test', 'gpu', 'portable_child.mjs')

  beforeAll(async () => {
    await build()
    await run([child, 'twin', twin], {})
  }, 120_000)
  afterAll(() => rmSync(folder, { recursive: true }))

  test.each(kinds)('%s', { timeout: 120_000 }, async (_, environment) => {
    const { wrong, changed, model } = JSON.parse(await run([child, twin], environment))
    expect(wrong).toEqual([])
    expect(changed).toEqual([])
    expect(model.changed).toEqual([])
    expect(model.relativeError).toBeLessThan(5e-3)
    expect(model.compared).toBeGreaterThan(1000)
    expect(model.worst).toBeLessThan(0.03)
  })

  test('a GPU older than any kernel is refused when a model is loaded', async () => {
    const source = `
      import { load } from './dist/index.js'
      const error = await load('models/demo', { device: 'cuda' }).catch((error) => error)
      process.stdout.write(JSON.stringify({ code: error.code, message: error.message }))`
    const program = ['--input-type=module', '--eval', source]
    const refused = JSON.parse(await run(program, { MILLRACE_TEST_CAPABILITY: '7.0' }))
    expect(refused).toMatchObject({ code: 'DEVICE_UNAVAILABLE', message: expect.stringMatching(/7\.0.*7\.5/) })
  })
})
