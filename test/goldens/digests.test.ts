/**
 * The bits of every golden model, by instruction set, as they were when the table was made: whatever is rearranged between
 * a checkpoint and its logits changes none. MILLRACE_WRITE_DIGESTS=1 writes the table anew, for what is meant to change
 * them, and adds models that are new.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { build, DIST } from '../built.ts'
import { modelFolder, readGoldens } from './golden.ts'

const here = fileURLToPath(new URL('.', import.meta.url))
const file = join(here, 'digests', 'table.json')
const write = process.env.MILLRACE_WRITE_DIGESTS === '1'

type Table = Record<string, Record<string, string>>
const table = JSON.parse(readFileSync(file, 'utf8')) as Table

interface Case {
  name: string
  path: string
  tokens: number[]
}

// Of large vocabularies fewer: plain C++ takes its time.
const mostTokens = (vocab: number) => (vocab > 10_000 ? 16 : 96)

function cases(): Case[] {
  const gguf = JSON.parse(readFileSync(join(here, 'gguf', 'golden.json'), 'utf8')) as Record<string, { ids: number[] }>
  const files = ['llama-Q4_0.gguf', 'llama-Q3_K_M.gguf'].map((name) => ({
    name,
    path: join(here, 'gguf', name),
    tokens: gguf[name]!.ids.slice(0, 96),
  }))
  const folders = readGoldens().flatMap(({ model, vocab, sequences }) => {
    const path = modelFolder(model)
    return path ? [{ name: model, path, tokens: sequences[0]!.tokens.slice(0, mostTokens(vocab)) }] : []
  })
  return [...folders, ...files]
}

function digestsOf(kernels: string, all: readonly Case[]): string[] {
  const entry = pathToFileURL(join(DIST, 'index.js')).href
  const args = all.flatMap(({ path, tokens }) => [path, JSON.stringify(tokens)])
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(here, 'digests', 'print.mjs'), entry, ...args], {
    encoding: 'utf8',
    env: { ...process.env, MILLRACE_CPU_KERNELS: kernels },
  })
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout) as string[]
}

// Float kernels are the compiler's where no instruction set has its own.
describe.skipIf(process.arch !== 'x64')('digests of logits', () => {
  beforeAll(build)

  test.each(['avx2', 'plain'])('%s', { timeout: 300_000 }, (kernels) => {
    const all = cases()
    const found = Object.fromEntries(digestsOf(kernels, all).map((digest, i) => [all[i]!.name, digest]))
    if (write) {
      table[kernels] = { ...table[kernels], ...found }
      writeFileSync(file, `${JSON.stringify(table, null, 2)}\n`)
    }
    expect(Object.keys(found).length).toBeGreaterThan(25)
    expect(found).toEqual(Object.fromEntries(all.map(({ name }) => [name, table[kernels]?.[name]])))
  })
})
