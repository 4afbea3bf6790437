/** Processes that sleep in the middle of a download (SIGSTOP, the lid of a laptop) and wake when others have gone on. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { LockLost, withFileLock } from '../../../lib/hub/lock.ts'
import { parseHubName } from '../../../lib/hub/name.ts'
import { pullInto } from '../../../lib/hub/pull.ts'
import type { HubSettings } from '../../../lib/hub/settings.ts'
import { build, DIST } from '../../built.ts'
import { blobOf, LocalHub } from './server.ts'

const weights = randomBytes(900_000)
const FILES = {
  'config.json': Buffer.from('{"model_type":"llama"}'),
  'tokenizer.json': Buffer.from('{}'),
  'model.safetensors': weights,
}

let hub: LocalHub
let folder: string
let settings: HubSettings
beforeAll(build)
beforeEach(async () => {
  hub = await LocalHub.start()
  hub.repos.set('some/model', { files: FILES })
  folder = mkdtempSync(join(tmpdir(), 'millrace-sleeper-'))
  settings = hub.settings(join(folder, 'hub'))
})
afterEach(() => {
  hub.close()
  rmSync(folder, { recursive: true, force: true })
})

const blob = () => join(settings.cache, 'models--some--model', 'blobs', blobOf(weights))
const pull = (more: Partial<HubSettings> = {}) => pullInto(parseHubName('some/model')!, {}, { ...settings, ...more })

/** Another process that pulls, and what it printed when it ended. */
function start() {
  const program = `import { pull } from ${JSON.stringify(join(DIST, 'index.js'))}
    const { path } = await pull('some/model').catch(({ code }) => ({ path: code }))
    console.log(path)`
  const env = { PATH: process.env.PATH, HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: settings.cache, HOME: folder }
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { env, stdio: 'pipe' })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text))
  return { child, ended: once(child, 'close').then(() => output.trim()) }
}

describe('a process that sleeps while it downloads', () => {
  /** One whose connection still has something for it, 200,000 to 700,000 bytes being here. */
  async function asleep() {
    hub.fault = (where, path, times) =>
      where === 'storage' && path === 'model.safetensors' && times === 0 ? { slow: 150 } : undefined
    const one = start()
    const unfinished = `${blob()}.incomplete`
    await expect
      .poll(() => existsSync(unfinished) && statSync(unfinished).size, { timeout: 30_000, interval: 20 })
      .toBeGreaterThan(200_000)
    one.child.kill('SIGSTOP')
    expect(statSync(unfinished).size).toBeLessThan(700_000)
    return one
  }

  test('wakes after another has ended it, and takes what that one has', async () => {
    const sleeper = await asleep()
    const { path, fetchedBytes } = await pull({ deadMs: 300 })
    expect(fetchedBytes, 'what had come is not fetched again').toBeLessThan(weights.length - 150_000)
    expect(readFileSync(blob()).equals(weights)).toBe(true)
    await sleep(2000) // all of the sleeper's answer lies in its socket
    sleeper.child.kill('SIGCONT')
    expect(await sleeper.ended).toBe(path)
    expect(readFileSync(blob()).equals(weights)).toBe(true)
    const names = readdirSync(settings.cache, { recursive: true }).map(String)
    expect(names.filter((name) => /incomplete|\.locks.*millrace/.test(name))).toEqual([])
  })

  test('wakes while another downloads, and neither spoils what the other writes', async () => {
    const sleeper = await asleep()
    const slow = hub.fault
    hub.fault = (where, path, times) => slow(where, path, times) ?? { slow: 300 }
    const pulled = pull({ deadMs: 300 })
    await expect.poll(() => hub.served.filter(({ path }) => path === 'model.safetensors').length).toBe(2)
    await sleep(500)
    sleeper.child.kill('SIGCONT')
    const { path } = await pulled
    expect(await sleeper.ended).toBe(path)
    expect(readFileSync(blob()).equals(weights)).toBe(true)
  })
})

describe('a lock', () => {
  const lock = () => join(folder, 'lock')
  const foreign = 'elsewhere 1 1 0123456789abcdef\n'

  test('that another took tells who held it, and stays with the other', async () => {
    const held = withFileLock(lock(), async ({ lost, check }) => {
      await check()
      writeFileSync(lock(), foreign)
      await expect.poll(() => lost.aborted, { timeout: 10_000 }).toBe(true)
      expect(lost.reason).toBeInstanceOf(LockLost)
      await check()
    })
    await expect(held).rejects.toBeInstanceOf(LockLost)
    expect(readFileSync(lock(), 'utf8')).toBe(foreign)
  })

  test('of another machine counts by its beats and not by its clock', async () => {
    writeFileSync(lock(), foreign)
    // A clock an hour behind.
    const beat = () => utimesSync(lock(), new Date(Date.now() - 3_600_000), new Date(Date.now() - 3_600_000))
    const beats = setInterval(beat, 50)
    let taken = false
    const later = withFileLock(lock(), async ({ mayWake }) => (taken = mayWake), { deadMs: 500 })
    await sleep(1500)
    expect(taken).toBe(false)
    clearInterval(beats)
    await later
    expect(taken, 'whoever fell silent may wake').toBe(true)
    expect(readdirSync(folder).filter((name) => name.startsWith('lock'))).toEqual([])
  })
})
