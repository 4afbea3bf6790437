/**
 * Captures of graphs are the thread's own, so other threads may call nearly everything meanwhile. What no mode of capture
 * allows is left out of the product's CUDA code: waiting for a whole device fails while anybody captures there, and makes
 * his capture invalid; the legacy stream does so beside blocking streams. (No GPU is needed to see it.)
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const sources = readdirSync(join(root, 'cuda'), { recursive: true, encoding: 'utf8' }).filter((name) =>
  /\.(cc|cu|cuh|h)$/.test(name),
)

const FORBIDDEN = {
  'a wait for the device': /\b(cudaDeviceSynchronize|cudaThreadSynchronize|cuCtxSynchronize|cudaDeviceReset)\b/,
  'the legacy stream': /\bcudaStreamLegacy\b|\bcudaMem(cpy|set)(2D|3D|ToSymbol|FromSymbol|Peer)?\s*\(/,
  'a launch on the legacy stream': /<<<[^,;>]*(,[^,;>]*){1,2}>>>/,
  'a blocking stream': /\bcudaStreamCreate\s*\(|\bcudaStreamDefault\b/,
  'a capture that forbids others their calls': /\bcudaStreamCaptureModeGlobal\b/,
}

test.each(Object.entries(FORBIDDEN))('cuda/ has no %s', (_, pattern) => {
  expect(sources.length).toBeGreaterThan(20)
  const found = sources.flatMap((name) =>
    readFileSync(join(root, 'cuda', name), 'utf8')
      .split('\n')
      .map((line, index) => ({ code: line.replace(/\/\/.*/, ''), at: `cuda/${name}:${index + 1}` }))
      .filter(({ code }) => pattern.test(code))
      .map(({ code, at }) => `${at}: ${code.trim()}`),
  )
  expect(found).toEqual([])
})
