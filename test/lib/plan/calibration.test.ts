import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import {
  type Calibration,
  calibrationPath,
  defaultCalibration,
  readCalibration,
  readDiskRate,
  writeCalibration,
  writeDiskRate,
} from '../../../lib/plan/calibration.ts'
import { temporaryFolder } from '../folder.ts'

const system = vi.hoisted(() => ({ homeless: false }))
vi.mock('node:os', async (original) => {
  const os = await original<typeof import('node:os')>()
  const homedir = () => {
    if (system.homeless) throw new Error('uv_os_homedir returned ENOENT')
    return os.homedir()
  }
  const userInfo = () => {
    if (system.homeless) throw new Error('uv_os_get_passwd returned ENOENT')
    return os.userInfo()
  }
  return { ...os, homedir, userInfo }
})

const key = { gpu: 'a GPU', cpu: 'a CPU', cores: 16, version: '1.0.0' }
const measured: Calibration = { ...defaultCalibration({ link: 'PCIe 5.0 x16', cores: 16 }), calibrated: true }
const fresh = async () => join(await temporaryFolder({}), 'millrace', 'calibration.json')

describe('the file', async () => {
  test('gives back what was measured on this machine with this version, and on no other', async () => {
    const path = await fresh()
    await writeCalibration(key, measured, path)
    expect(readCalibration(key, path)).toEqual(measured)
    for (const other of [{ gpu: 'another' }, { cpu: 'another' }, { cores: 8 }, { version: '1.0.1' }]) {
      expect(readCalibration({ ...key, ...other }, path)).toBeUndefined()
    }
  })

  test('keeps a disk by its folder, beside machines', async () => {
    const path = await fresh()
    await writeCalibration(key, measured, path)
    await writeDiskRate('/one', 2e9, path)
    await writeDiskRate('/another', 3e9, path)
    expect([readDiskRate('/one', path), readDiskRate('/another', path)]).toEqual([2e9, 3e9])
    expect(readDiskRate('/a third', path)).toBeUndefined()
    expect(readCalibration(key, path)).toEqual(measured)
    writeFileSync(path, readFileSync(path, 'utf8').replace('2000000000', '-1'))
    expect(readDiskRate('/one', path)).toBeUndefined()
  })

  test('keeps other machines', async () => {
    const path = await fresh()
    await writeCalibration(key, measured, path)
    await writeCalibration({ ...key, gpu: 'another' }, { ...measured, kvBytesPerSecond: 1 }, path)
    expect(readCalibration(key, path)!.kvBytesPerSecond).toBe(measured.kvBytesPerSecond)
  })

  test('missing, damaged or of another form: as if there were none, and the next one mends it', async () => {
    const path = await fresh()
    expect(readCalibration(key, path)).toBeUndefined()
    await writeCalibration(key, measured, path)
    const whole = readFileSync(path, 'utf8')
    const broken = [
      whole.slice(0, 100),
      '[]',
      'null',
      '7',
      whole.replace('"kvBytesPerSecond"', '"kv"'),
      whole.replace('"calibrated": true', '"calibrated": false'),
      whole.replace(/"besideLink": [\d.]+/, '"besideLink": -1'),
      whole.replace(/"unitSeconds": \[/, '"unitSeconds": [1,'),
    ]
    for (const text of broken) {
      writeFileSync(path, text)
      expect(readCalibration(key, path), text.slice(0, 60)).toBeUndefined()
    }
    await writeCalibration(key, measured, path)
    expect(readCalibration(key, path)).toEqual(measured)
  })

  test('figures that are none are not kept', async () => {
    const path = await fresh()
    await expect(writeCalibration(key, { ...measured, kvBytesPerSecond: Number.NaN }, path)).rejects.toThrow(
      /no figures/,
    )
    expect(readCalibration(key, path)).toBeUndefined()
  })

  test('a folder in its place is no reason to fail', async () => {
    const path = await fresh()
    mkdirSync(path, { recursive: true })
    expect(readCalibration(key, path)).toBeUndefined()
  })

  test('a user without a home has none', () => {
    vi.stubEnv('XDG_CACHE_HOME', undefined)
    system.homeless = true
    expect(calibrationPath()).toBeUndefined()
    expect(readCalibration(key)).toBeUndefined()
    system.homeless = false
    vi.unstubAllEnvs()
  })

  test('lies where the system has its caches', async () => {
    expect(calibrationPath({ XDG_CACHE_HOME: '/caches' })).toBe('/caches/millrace/calibration.json')
    for (const cache of [undefined, '', 'relative']) {
      expect(calibrationPath({ XDG_CACHE_HOME: cache })).toMatch(/\/\.cache\/millrace\/calibration\.json$/)
    }
  })
})

test('without a measurement the link is judged by its generation and lanes, and marked so', async () => {
  const rate = (link: string) => defaultCalibration({ link, cores: 16 }).link.bytesPerSecond
  expect(rate('PCIe 5.0 x16')).toBeGreaterThan(50e9)
  expect(rate('PCIe 5.0 x16')).toBeLessThan(55e9)
  expect(rate('PCIe 4.0 x8') * 4).toBeCloseTo(rate('PCIe 5.0 x16'), -3)
  expect(rate('unknown')).toBeGreaterThan(0)
  expect(defaultCalibration({ link: '', cores: 4 })).toMatchObject({ calibrated: false, cpu: { threads: 4 } })
})
