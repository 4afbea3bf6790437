import { Command } from 'commander'
import { type CalibrationReport, calibrate } from '../model/calibrate.ts'
import { calibrateDisk, type DiskReport } from '../model/disk.ts'
import { ROWS } from '../plan/calibration.ts'
import { type ProbeReport, probe } from '../probe.ts'
import { formatBytes, formatTable } from './format.ts'
import type { Terminal } from './terminal.ts'

interface Flags {
  calibrate?: boolean
  dram?: boolean
  device?: string
  json?: boolean
}

export function probeCommand(terminal: Terminal): Command {
  return new Command('probe')
    .description('what this process may use of the machine')
    .option(
      '--calibrate',
      'measure GPU, link, CPU and disk for about 30 seconds and keep the figures for plans; without a GPU the disk alone',
    )
    .option('--dram', 'measure how fast all cores read system RAM')
    .option('--device <device>', 'the GPU to calibrate: cuda or cuda:<index>')
    .option('--json', 'print as JSON')
    .action(async (flags: Flags) => {
      const report = await probe({ dramBandwidth: flags.dram })
      let calibrated: CalibrationReport | undefined
      let disk: DiskReport | undefined
      if (flags.calibrate && report.gpus.length === 0 && flags.device === undefined) {
        terminal.note('there is no GPU: the disk alone is measured')
        disk = await calibrateDisk({ signal: terminal.signal })
      } else if (flags.calibrate) {
        const onProgress = (done: number, total: number) => terminal.note(`calibrating: ${done} of ${total}`)
        calibrated = await calibrate({ device: flags.device, signal: terminal.signal, onProgress })
      }
      await terminal.write(
        flags.json
          ? `${JSON.stringify({ ...report, ...(calibrated && { calibration: calibrated }), ...(disk && { disk }) }, null, 2)}\n`
          : describe(report) +
              (calibrated ? describeCalibration(calibrated) : '') +
              (disk ? formatTable([diskRow(disk), keptRow(disk)]) : ''),
      )
    })
}

function describe({ version, platform, cpu, gpus, gpuReason }: ProbeReport): string {
  const rows: [string, string][] = [
    ['millrace', `${version}, ${platform}`],
    ['CPU', `${cpu.model}: ${cpu.cores} cores of ${cpu.coresOnline}, kernels ${cpu.kernels}`],
    ['RAM', `${formatBytes(cpu.memoryLimitBytes)}, ${formatBytes(cpu.memoryAvailableBytes)} free`],
  ]
  if (cpu.dramReadBytesPerSecond) rows.push(['DRAM read', `${formatBytes(cpu.dramReadBytesPerSecond)}/s`])
  for (const { index, name, memoryBytes, memoryFreeBytes, computeCapability, link } of gpus) {
    const memory = `${formatBytes(memoryBytes)}, ${formatBytes(memoryFreeBytes)} free`
    rows.push([`GPU ${index}`, `${name} (${computeCapability}): ${memory}; ${link}`])
  }
  if (gpuReason !== undefined) rows.push(['GPU', `none: ${gpuReason}`])
  return formatTable(rows)
}

const gb = (rate: number) => `${(rate / 1e9).toPrecision(3)} GB/s`

function diskRow(disk: CalibrationReport['disk']): [string, string] {
  return ['disk', 'problem' in disk ? `not measured: ${disk.problem}` : `${gb(disk.bytesPerSecond)}, ${disk.folder}`]
}

function keptRow({ path, writeError }: Pick<DiskReport, 'path' | 'writeError'>): [string, string] {
  return ['kept in', path ?? `nothing: ${writeError}`]
}

function describeCalibration({ calibration, disk, seconds, ...kept }: CalibrationReport): string {
  const { link, cpu, hop, launched, replayed, head, prefill } = calibration
  const rate = (secondsPerByte: number) => gb(1 / secondsPerByte)
  const at = (rows: (typeof ROWS)[number]) => ROWS.indexOf(rows)
  const both = (name: (index: number) => string) => `${name(at(1))} at batch 1, ${name(at(64))} at 64`
  return formatTable([
    ['link', `${gb(link.bytesPerSecond)}, ${(link.besideCpu * 100).toFixed(0)} % of it beside the CPU`],
    [
      'CPU',
      `${both((index) => gb(cpu.bytesPerSecond[index]!))} with ${cpu.threads} threads, ${(cpu.besideLink * 100).toFixed(0)} % of it beside the link (${(cpu.besideLinkOfMany * 100).toFixed(0)} % with many rows)`,
    ],
    [
      'a hop',
      `${(hop.seconds * 1e6).toFixed(0)} us, ${((hop.seconds / hop.besideLink) * 1e6).toFixed(0)} beside the link`,
    ],
    [
      'GPU',
      `${both((index) => rate(launched.secondsPerByte[index]!))}; as a graph ${rate(replayed.secondsPerByte[0]!)}`,
    ],
    [
      'a unit',
      `${(launched.unitSeconds[0]! * 1e6).toFixed(1)} us; in a graph ${(replayed.unitSeconds[0]! * 1e6).toFixed(1)}`,
    ],
    ['head', `${rate(head.float[0]!)} in 16 bits, ${rate(head.q4[0]!)} in 4`],
    ['prompts', `${(prefill.flopsPerSecond / 1e12).toFixed(0)} TFLOP/s`],
    diskRow(disk),
    ['measured in', `${seconds.toFixed(1)} s`],
    keptRow(kept),
  ])
}
