import { Command } from 'commander'
import { type CalibrationReport, calibrate } from '../model/calibrate.ts'
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
    .option('--calibrate', 'measure GPU, link and CPU for about 20 seconds and keep the figures for plans')
    .option('--dram', 'measure how fast all cores read system RAM')
    .option('--device <device>', 'the GPU to calibrate: cuda or cuda:<index>')
    .option('--json', 'print as JSON')
    .action(async (flags: Flags) => {
      const report = await probe({ dramBandwidth: flags.dram })
      let calibrated: CalibrationReport | undefined
      if (flags.calibrate) {
        const onProgress = (done: number, total: number) => terminal.note(`calibrating: ${done} of ${total}`)
        calibrated = await calibrate({ device: flags.device, signal: terminal.signal, onProgress })
      }
      await terminal.write(
        flags.json
          ? `${JSON.stringify({ ...report, ...(calibrated && { calibration: calibrated }) }, null, 2)}\n`
          : describe(report) + (calibrated ? describeCalibration(calibrated) : ''),
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

function describeCalibration({ calibration, path, writeError, seconds }: CalibrationReport): string {
  const { link, cpu, hop, launched, replayed, head, prefill } = calibration
  const gb = (rate: number) => `${(rate / 1e9).toPrecision(3)} GB/s`
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
    ['measured in', `${seconds.toFixed(1)} s`],
    ['kept in', path ?? `nothing: ${writeError}`],
  ])
}
