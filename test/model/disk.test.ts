/** What calibrateDisk() measures, and what plans make of it. */
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { calibrateDisk, plan } from '../../lib/index.ts'
import { measureDisk } from '../../lib/model/disk.ts'
import { writeDiskRate } from '../../lib/plan/calibration.ts'
import { temporaryFolder } from '../lib/folder.ts'

const SMALL = { bytes: 2 ** 22, seconds: 0 }

afterEach(() => vi.unstubAllEnvs())

describe('the rate', () => {
  test('is that of a file that is gone afterwards', async () => {
    const folder = join(await temporaryFolder({}), 'not there yet')
    expect(await measureDisk(folder, SMALL)).toBeGreaterThan(0)
    expect(readdirSync(folder)).toEqual([])
  })

  test('an abort leaves no file', async () => {
    const folder = await temporaryFolder({})
    const controller = new AbortController()
    const measured = measureDisk(folder, { bytes: 2 ** 32, seconds: 0, signal: controller.signal })
    await vi.waitUntil(() => readdirSync(folder).length > 0, { timeout: 30_000, interval: 1 })
    controller.abort()
    await expect(measured).rejects.toMatchObject({ code: 'ABORTED', name: 'AbortError' })
    expect(readdirSync(folder)).toEqual([])
  })

  test('a folder that cannot be written to is told by its path', async () => {
    const file = join(await temporaryFolder({}), 'file')
    writeFileSync(file, '')
    const inside = join(file, 'folder')
    await expect(measureDisk(inside, SMALL)).rejects.toMatchObject({
      code: 'WRITE_FAILED',
      message: expect.stringContaining(inside),
    })
    await expect(calibrateDisk({ folder: 7 as never })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})

test('plans read weights from the disk as fast as it was measured, or guess', async () => {
  const home = await temporaryFolder({})
  vi.stubEnv('XDG_CACHE_HOME', home)
  vi.stubEnv('MILLRACE_CACHE', 'on')
  const file = join(home, 'millrace', 'calibration.json')
  const planned = async () => {
    const made = await plan('tinyllama-1.1b', { device: 'cpu', contextLength: 256, ramBudget: '500MB' })
    expect(made.fileBytesPerPass).toBeGreaterThan(0)
    return made
  }
  expect(existsSync(file)).toBe(false)
  expect((await planned()).prediction.calibrated).toBe(false)
  await writeDiskRate(join(home, 'millrace', 'packed'), 1e6, file)
  const { fileBytesPerPass, prediction } = await planned()
  expect(prediction.single).toMatchObject({ boundBy: 'disk', diskSeconds: fileBytesPerPass / 1e6 })
})
