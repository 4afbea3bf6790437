/**
 * Captures of graphs are the thread's own, so other threads may call nearly everything meanwhile. What no mode of capture
 * allows is left out of the product's CUDA code: waiting for a whole device fails while anybody captures there, and makes
 * his capture invalid; the legacy stream does so beside blocking streams. (No GPU is needed to see it.)
 *
 * Threads of several devices and models launch at once: what lives as long as the process is constant, atomic, a lock,
 * behind one, or in cuda/plan/facts_per_device.h or done_per_device.h, whose own test runs under ThreadSanitizer.
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
  'static that threads write without a word':
    /^\s*static\s+(?!const\b|constexpr\b|thread_local\b|std::(atomic|mutex)\b|OncePerDevice\b|auto\* \w+ = new (std::(mutex|map)|FactsPerDevice|FreeGate)\b)[\w:<>,*&\s]+\b\w+(\[[^\]]*\])*\s*(;|=|\{)/,
  'global that threads write without a word':
    /^(?!(using|return|const|constexpr|inline|template|class|struct|enum|union|namespace|extern|typedef|friend|static|std::(mutex|atomic))\b)\w[\w:]*(<[^;=]*>)?[*&\s]+\w+(\[[^\]]*\])*\s*(=[^=].*|\{.*)?;/,
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
