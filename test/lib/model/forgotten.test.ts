/** Models that nobody closes and nobody holds any more: what they had goes, as of closed ones. */
import { beforeAll, expect, test } from 'vitest'
import { build } from '../../built.ts'
import { program } from '../program.ts'

beforeAll(build)

test('30 models that were loaded, asked and forgotten leave neither threads nor memory', async () => {
  const { code, stdout, stderr } = await program(
    `
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
const threads = () => readdirSync('/proc/self/task').length
const residentMb = () => Number(/^VmRSS:\\s+(\\d+)/m.exec(readFileSync('/proc/self/status', 'latin1'))[1]) / 1024
// Each has a thread of its own, or two, and some 17 MB of keys and values that have been written.
const options = { device: 'cpu', threads: 2, kvTokens: 32768, poison: true }
const use = async () => {
  const model = await millrace.load(stories, options)
  return [model, (await model.generate('Once upon a time', { maxTokens: 2 }).result).tokens.length]
}
const forget = async () => {
  await use()
}
// What is freed is freed on threads of its own, soon after the collector has run.
const settled = async (done, most = 100) => {
  for (let tries = 0; tries < most && !done(); tries++) {
    gc()
    await sleep(100)
  }
}

const [closed] = await use()
await closed.close()
for (let i = 0; i < 5; i++) await forget()
await settled(() => false, 10)
const before = { threads: threads(), mb: residentMb() }
for (let i = 0; i < 30; i++) {
  await forget()
  gc()
}
await settled(() => threads() <= before.threads && residentMb() < before.mb + 60)
console.log(JSON.stringify({ threads: threads() - before.threads, mb: Math.round(residentMb() - before.mb) }))`,
    ['--expose-gc'],
  )
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const grown = JSON.parse(stdout)
  expect(grown.threads).toBeLessThanOrEqual(0)
  // 30 of them would have left 500, and as many threads.
  expect(grown.mb).toBeLessThan(60)
}, 300_000)
