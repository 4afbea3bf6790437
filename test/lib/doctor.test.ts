import { describe, expect, test } from 'vitest'
import { diagnose, type Facts, readFacts } from '../../lib/doctor.ts'
import { MillraceError } from '../../lib/errors.ts'
import { explainNoGpu, type ProbeReport } from '../../lib/probe.ts'

const gpu = {
  index: 0,
  name: 'NVIDIA RTX 4090',
  computeCapability: '8.9',
  memoryBytes: 24e9,
  memoryFreeBytes: 23e9,
  link: 'PCIe 4.0 x16',
}
const report: ProbeReport = {
  version: '0.1.0',
  platform: 'linux-x64',
  cpu: {
    arch: 'x64',
    model: 'a processor',
    features: [],
    kernels: 'avx2',
    cores: 8,
    coresOnline: 8,
    memoryBytes: 64e9,
    memoryLimitBytes: 64e9,
    memoryAvailableBytes: 50e9,
  },
  weightBytes: 0,
  gpus: [gpu],
}
const healthy: Facts = {
  node: '22.12.0',
  platform: 'linux-x64',
  report,
  driver: '580.65',
  hasGpu: true,
  wsl: false,
  lockedBytes: Number.POSITIVE_INFINITY,
  disks: [{ what: 'disk for models', path: '/models', freeBytes: 1e12, variable: 'HF_HUB_CACHE' }],
}
const levelOf = (facts: Partial<Facts>, name: string) =>
  diagnose({ ...healthy, ...facts }).find((finding) => finding.name === name)
const without = (gpuReason: string): ProbeReport => ({ ...report, gpus: [], gpuReason })

describe('doctor', () => {
  test('finds nothing where all is well', () => {
    expect(diagnose(healthy).filter(({ level }) => level !== 'ok')).toEqual([])
  })

  test('every finding that is not ok says what to do', () => {
    const bad: Partial<Facts>[] = [
      { node: '18.20.0' },
      { platform: 'win32-x64' },
      { report: new MillraceError('ADDON_NOT_BUILT', { message: 'it is not there' }) },
      { report: without('the NVIDIA driver is too old') },
      { report: { ...report, cpu: { ...report.cpu, memoryLimitBytes: 4e9 } } },
      { report: { ...report, gpus: [{ ...gpu, memoryFreeBytes: 1e9 }] } },
      { lockedBytes: 65536 },
      { wsl: true },
      { disks: [{ ...healthy.disks[0]!, freeBytes: 1e9 }] },
    ]
    for (const facts of bad) {
      const found = diagnose({ ...healthy, ...facts }).filter(({ level }) => level !== 'ok')
      expect(found.length, JSON.stringify(facts)).toBeGreaterThan(0)
      for (const { remedy } of found) expect(remedy).toBeTruthy()
    }
  })

  test.each(['20.18.0', '21.7.0', '22.11.0', '18.0.0'])('Node.js %s is a problem', (node) =>
    expect(levelOf({ node }, 'Node.js')?.level).toBe('problem'),
  )
  test.each(['20.19.0', '22.12.0', '23.0.0', '24.1.0'])('Node.js %s is none', (node) =>
    expect(levelOf({ node }, 'Node.js')?.level).toBe('ok'),
  )

  test('Windows is pointed to WSL2, and WSL2 told what it may pin', () => {
    expect(levelOf({ platform: 'win32-x64' }, 'platform')?.remedy).toContain('WSL2')
    expect(levelOf({ wsl: true }, 'WSL2')?.text).toMatch(/64\.0 GB.*pinned/)
  })

  test('a GPU that cannot be used is a problem, and none is not', () => {
    expect(levelOf({ report: without('no NVIDIA driver is loaded'), hasGpu: false }, 'GPU')?.level).toBe('ok')
    const reason = explainNoGpu('this build has no CUDA backend (it was built ...)', true)
    expect(levelOf({ report: without(reason) }, 'GPU')).toMatchObject({
      level: 'problem',
      remedy: expect.stringContaining('npx millrace build'),
    })
  })

  test('reads this machine', async () => {
    const findings = diagnose(await readFacts())
    expect(findings.map(({ name }) => name)).toEqual(expect.arrayContaining(['Node.js', 'platform', 'addon', 'memory']))
    expect(findings.find(({ name }) => name === 'addon')?.level).toBe('ok')
  })
})

describe('a build without CUDA', () => {
  test('says how to mend it beside a GPU, and only there', () => {
    const reason = 'this build has no CUDA backend (it was built without a CUDA compiler)'
    expect(explainNoGpu(reason, true)).toContain('`MILLRACE_CUDA=ON npx millrace build`')
    expect(explainNoGpu(reason, false)).toBe(reason)
    expect(explainNoGpu('no NVIDIA driver is loaded', true)).toBe('no NVIDIA driver is loaded')
  })
})
