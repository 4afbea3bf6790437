/** What of a machine keeps millrace from working, or from its speed, and what to do about each. */
import { existsSync, readFileSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { formatBytes } from './cli/format.ts'
import { MillraceError } from './errors.ts'
import { nearestFolder } from './files.ts'
import { hubSettings } from './hub/settings.ts'
import { cacheFolder } from './model/cache.ts'
import { hasNvidiaGpu, type ProbeReport, probe } from './probe.ts'

export interface Finding {
  name: string
  /** 'problem': something that was asked for does not work. 'note': it works, and could be better. */
  level: 'ok' | 'note' | 'problem'
  text: string
  remedy?: string
}

/** What is known of the machine. */
export interface Facts {
  node: string
  platform: string
  /** What probe() says, or why it says nothing. */
  report: ProbeReport | MillraceError
  /** The driver's kernel module, as /proc/driver/nvidia/version has it. */
  driver: string | undefined
  hasGpu: boolean
  wsl: boolean
  /** Bytes that may be locked; Infinity without a limit. */
  lockedBytes: number
  disks: { what: string; path: string; freeBytes: number; variable: string }[]
}

const MIN_LOCKED = 2 ** 30
const MIN_DISK = 20e9

export async function readFacts(): Promise<Facts> {
  const read = (path: string) => {
    try {
      return readFileSync(path, 'utf8')
    } catch {
      return ''
    }
  }
  const report = await probe().catch((error) => MillraceError.fromNative(error))
  const [, locked] = /^Max locked memory +(\S+)/m.exec(read('/proc/self/limits')) ?? []
  const version = read('/proc/driver/nvidia/version')
  return {
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    report,
    driver: /Kernel Module(?: for \S+)? +([\d.]+)/.exec(version)?.[1],
    hasGpu: hasNvidiaGpu(),
    wsl: /microsoft/i.test(read('/proc/version')) || existsSync('/usr/lib/wsl/lib'),
    lockedBytes: locked === undefined || locked === 'unlimited' ? Number.POSITIVE_INFINITY : Number(locked),
    disks: await readDisks(),
  }
}

async function readDisks(): Promise<Facts['disks']> {
  const models = await hubSettings().then(
    ({ cache }) => cache,
    () => undefined,
  )
  const places = [
    { what: 'disk for models', path: models, variable: 'HF_HUB_CACHE' },
    { what: 'disk for repacked weights', path: cacheFolder(true), variable: 'MILLRACE_CACHE' },
  ]
  const disks = []
  for (const { what, path, variable } of places) {
    if (path === undefined) continue
    const info = await statfs(await nearestFolder(path)).catch(() => undefined)
    if (info) disks.push({ what, path, variable, freeBytes: Number(info.bavail) * Number(info.bsize) })
  }
  return disks
}

export function diagnose(facts: Facts): Finding[] {
  const { report, platform } = facts
  const findings: Finding[] = [ofNode(facts.node), ofPlatform(platform)]
  if (!platform.startsWith('linux-')) return findings
  if (MillraceError.isInstance(report)) {
    findings.push({ name: 'addon', level: 'problem', text: report.message, remedy: report.remedy })
  } else {
    findings.push(
      { name: 'addon', level: 'ok', text: `${report.version}, kernels ${report.cpu.kernels}` },
      ...ofGpus(facts, report),
    )
    findings.push(ofMemory(report))
  }
  return [...findings, ofLockedMemory(facts), ...ofWsl(facts), ...facts.disks.map(ofDisk)]
}

function ofNode(version: string): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const fits = (major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22
  if (fits) return { name: 'Node.js', level: 'ok', text: version }
  return { name: 'Node.js', level: 'problem', text: `${version} is too old`, remedy: 'install 20.19, 22.12 or newer' }
}

function ofPlatform(platform: string): Finding {
  if (['linux-x64', 'linux-arm64'].includes(platform)) return { name: 'platform', level: 'ok', text: platform }
  const remedy = platform.startsWith('win32')
    ? 'run it in WSL2 (wsl --install), where Windows lends its GPU to Linux'
    : 'run it on Linux, x64 or arm64, or in a Linux container'
  return { name: 'platform', level: 'problem', text: `${platform} has no native side`, remedy }
}

function ofGpus({ driver, hasGpu }: Facts, { gpus, gpuReason = '' }: ProbeReport): Finding[] {
  if (gpus.length > 0) {
    const driverText = driver === undefined ? [] : [{ name: 'driver', level: 'ok' as const, text: driver }]
    const each = gpus.map(({ index, name, computeCapability, memoryBytes, memoryFreeBytes, link }): Finding => {
      const text = `${name} (${computeCapability}), ${formatBytes(memoryFreeBytes)} free of ${formatBytes(memoryBytes)}, ${link}`
      const full = memoryFreeBytes < memoryBytes / 10
      if (!full) return { name: `GPU ${index}`, level: 'ok', text }
      return { name: `GPU ${index}`, level: 'note', text, remedy: 'close what else uses it: nvidia-smi lists it' }
    })
    return [...driverText, ...each]
  }
  if (!hasGpu) return [{ name: 'GPU', level: 'ok', text: `none: ${gpuReason}; models run on the CPU` }]
  const old = /driver.*(too old|insufficient|older)/i.test(gpuReason)
  const remedy = gpuReason.includes('npx millrace build')
    ? 'MILLRACE_CUDA=ON npx millrace build, or remove build/ of the package to use the prebuilt one'
    : old
      ? 'install driver 580 or newer (525 for a build of CUDA 12)'
      : 'nvidia-smi must list the GPU; in a container start it with --gpus all'
  return [{ name: 'GPU', level: 'problem', text: `there is one, and it cannot be used: ${gpuReason}`, remedy }]
}

function ofMemory({ cpu, gpus }: ProbeReport): Finding {
  const { memoryBytes, memoryLimitBytes, memoryAvailableBytes, cores, coresOnline } = cpu
  const limited = memoryLimitBytes < memoryBytes
  const text = `${formatBytes(memoryAvailableBytes)} of RAM free of ${formatBytes(memoryLimitBytes)}${limited ? ` (a cgroup's limit; the machine has ${formatBytes(memoryBytes)})` : ''}, ${cores} of ${coresOnline} cores`
  const small = memoryLimitBytes < 8e9 || gpus.some((gpu) => gpu.memoryBytes > memoryLimitBytes)
  if (!small) return { name: 'memory', level: 'ok', text }
  const remedy = limited
    ? 'give the container more memory: weights that are streamed rest in RAM'
    : 'choose models whose weights fit: millrace models lists some'
  return { name: 'memory', level: 'note', text, remedy }
}

/** CUDA pins without this limit; what is swapped out on the CPU is not. */
function ofLockedMemory({ lockedBytes, report }: Facts): Finding {
  const text = lockedBytes === Number.POSITIVE_INFINITY ? 'no limit' : `at most ${formatBytes(lockedBytes)}`
  const gpus = MillraceError.isInstance(report) ? 0 : report.gpus.length
  if (gpus === 0 || lockedBytes >= MIN_LOCKED) return { name: 'locked memory', level: 'ok', text }
  const remedy =
    'where pinning fails: ulimit -l unlimited, LimitMEMLOCK=infinity in a unit, --ulimit memlock=-1 in Docker'
  return { name: 'locked memory', level: 'note', text, remedy }
}

function ofWsl({ wsl, report }: Facts): Finding[] {
  if (!wsl) return []
  const bytes = MillraceError.isInstance(report) ? 0 : report.cpu.memoryBytes
  return [
    {
      name: 'WSL2',
      level: 'note',
      text: `Windows gives it ${formatBytes(bytes)} of RAM, and lets about half of that be pinned for a GPU; what is beyond is streamed more slowly`,
      remedy: 'raise memory= in %UserProfile%\\.wslconfig, then wsl --shutdown; models that fit the GPU pin little',
    },
  ]
}

function ofDisk({ what, path, freeBytes, variable }: Facts['disks'][number]): Finding {
  const text = `${formatBytes(freeBytes)} free at ${path}`
  if (freeBytes >= MIN_DISK) return { name: what, level: 'ok', text }
  return { name: what, level: 'note', text, remedy: `make room, or name another place by ${variable}` }
}
