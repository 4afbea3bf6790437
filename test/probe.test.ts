import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../lib/binding.ts'
import { probe } from '../lib/probe.ts'

const addonFile = join(packageRoot(), 'build', 'Release', 'millrace.node')

describe('probe', () => {
  test('reports the processor, cores and memory that this process may use', async () => {
    const { cpu, platform, version } = await probe()
    expect(version).toBe(JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')).version)
    expect(platform).toBe(`linux-${process.arch}`)
    expect(cpu.arch).toBe(process.arch)
    expect(cpu.model).not.toBe('')
    expect(cpu.cores).toBeGreaterThanOrEqual(1)
    expect(cpu.cores).toBeLessThanOrEqual(cpus().length)
    const total = Number(/^MemTotal:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]) * 1024
    expect(cpu.memoryBytes).toBe(total)
    expect(cpu.memoryLimitBytes).toBeLessThanOrEqual(total)
    expect(cpu.memoryAvailableBytes).toBeGreaterThan(0)
    expect(cpu.memoryAvailableBytes).toBeLessThanOrEqual(cpu.memoryLimitBytes)
    expect(cpu.dramReadBytesPerSecond).toBeUndefined()
  })

  test('names kernels that the reported features allow', async () => {
    const { cpu } = await probe()
    const needs: Record<string, string[]> = {
      plain: [],
      avx2: ['avx2', 'fma', 'f16c'],
      avx512: ['avx512f', 'avx512bw', 'avx512vl', 'avx512dq'],
      avx512vnni: ['avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_vnni'],
    }
    expect(Object.keys(needs)).toContain(cpu.kernels)
    expect(cpu.features).toEqual(expect.arrayContaining(needs[cpu.kernels]!))
  })

  test('counts only the cores of its affinity', () => {
    const script = `process.stdout.write(String(require(${JSON.stringify(addonFile)}).probeCpu().cores))`
    const { stdout, error } = spawnSync('taskset', ['-c', firstCore(), process.execPath, '-e', script], {
      encoding: 'utf8',
    })
    if (error) throw error
    expect(stdout).toBe('1')
  })

  test('measures memory bandwidth on request, without blocking the event loop', async () => {
    let turns = 0
    const timer = setInterval(() => turns++, 1)
    try {
      const { cpu } = await probe({ dramBandwidth: true })
      expect(cpu.dramReadBytesPerSecond).toBeGreaterThan(1e8)
      expect(cpu.dramReadBytesPerSecond).toBeLessThan(1e14)
      expect(turns).toBeGreaterThan(5)
    } finally {
      clearInterval(timer)
    }
  })

  test('lists the GPUs, or says in a sentence why there are none', async () => {
    const { gpus, gpuReason } = await probe()
    if (gpus.length === 0) {
      expect(gpuReason).toMatch(/^(no NVIDIA driver|the NVIDIA driver|this build has no CUDA backend|CUDA )/)
      // A machine with a driver's device nodes must not be told that it has no driver.
      if (/^no NVIDIA driver/.test(gpuReason!)) expect(existsSync('/proc/driver/nvidia/version')).toBe(false)
    } else {
      expect(gpuReason).toBeUndefined()
      for (const gpu of gpus) {
        expect(gpu.computeCapability).toMatch(/^\d+\.\d$/)
        expect(gpu.memoryFreeBytes).toBeLessThanOrEqual(gpu.memoryBytes)
        expect(gpu.link).toMatch(/^PCIe \d\.0 x\d+$|^unknown$/)
      }
    }
  })

  test('names a misspelt option', async () => {
    // @ts-expect-error: no such option
    await expect(probe({ dramBandwith: true })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('dramBandwith'),
    })
  })
})

describe('the addon', () => {
  test('survives the end of worker threads that loaded it', async () => {
    const script = `
      const { parentPort } = require('node:worker_threads')
      parentPort.postMessage(require(${JSON.stringify(addonFile)}).probeCpu().cores)`
    for (let i = 0; i < 3; ++i) {
      const worker = new Worker(script, { eval: true })
      const cores = await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject))
      await worker.terminate()
      expect(cores).toBeGreaterThanOrEqual(1)
    }
    expect((await probe()).cpu.cores).toBeGreaterThanOrEqual(1)
  })

  test('needs no CUDA library to load and exports nothing but its entry points', () => {
    const needed = spawnSync('readelf', ['-d', addonFile], { encoding: 'utf8' }).stdout
    expect(needed).toMatch(/NODELETE/)
    expect(needed).not.toMatch(/NEEDED.*(cuda|nvidia|cudart)/)
    const symbols = spawnSync('nm', ['-D', '--defined-only', addonFile], { encoding: 'utf8' }).stdout
    const strong = symbols.split('\n').flatMap((line) => / T (\w+)$/.exec(line)?.[1] ?? [])
    expect(strong.sort()).toEqual(['napi_register_module_v1', 'node_api_module_get_api_version_v1'])
  })
})

/** Any one core that this process may run on. */
function firstCore(): string {
  const list = /^Cpus_allowed_list:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return list![1]!
}
