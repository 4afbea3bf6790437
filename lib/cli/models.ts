/** pull, ls, rm: models of the hub, and the cache that keeps them; models: which fit this machine. */
import { Command } from 'commander'
import { MillraceError } from '../errors.ts'
import { listModels, removeModel } from '../hub/manage.ts'
import { pull } from '../hub/pull.ts'
import { type PlanModelOptions, plan } from '../model/plan.ts'
import type { HeadType } from '../options/model.ts'
import type { DescribedGpu } from '../plan/described.ts'
import { probe } from '../probe.ts'
import { formatBytes, formatTable } from './format.ts'
import {
  addGpuFlag,
  addHubFlags,
  addPlanFlags,
  addServeFlags,
  type HubFlags,
  type LoadFlags,
  planOptions,
} from './options.ts'
import { describeHomes, significant } from './plan.ts'
import { REPOSITORIES } from './repositories.ts'
import type { Terminal } from './terminal.ts'

interface PullFlags extends HubFlags {
  json?: boolean
  quiet?: boolean
}

export function pullCommand(terminal: Terminal): Command {
  const command = new Command('pull')
    .description('fetch a model of the Hugging Face hub into the cache, and only the files that a load needs')
    .argument('<name>', 'owner/name, or owner/name:file.gguf; of a file a type such as Q4_K_M will do')
    .option('--json', 'print as JSON')
    .option('--quiet', 'no progress on stderr')
  return addHubFlags(command).action(async (name: string, { json, quiet, ...flags }: PullFlags) => {
    terminal.quiet = quiet ?? false
    const progress = terminal.progress(name)
    const pulled = await pull(name, { ...flags, signal: terminal.signal, onProgress: progress.report })
    progress.end()
    for (const warning of pulled.warnings) terminal.complain(`warning: ${warning}`)
    const { bytes, fetchedBytes } = pulled
    if (bytes !== undefined) {
      terminal.note(
        fetchedBytes === 0
          ? `${name} was here already: ${formatBytes(bytes)}`
          : `fetched ${formatBytes(fetchedBytes)} of ${formatBytes(bytes)}`,
      )
    }
    await terminal.write(json ? `${JSON.stringify(pulled, null, 2)}\n` : `${pulled.path}\n`)
  })
}

export function lsCommand(terminal: Terminal): Command {
  return new Command('ls')
    .description('models in the cache that all tools of the hub share')
    .option('--json', 'print as JSON')
    .action(async ({ json }: { json?: boolean }) => {
      const models = await listModels()
      if (json) return terminal.write(`${JSON.stringify(models, null, 2)}\n`)
      if (models.length === 0) terminal.note('no models are in the cache: millrace pull <owner/name> fetches one')
      const rows = models.flatMap(({ name, bytes, revisions, usedAt }): [string, string][] => {
        const when = `used ${usedAt.toISOString().slice(0, 10)}`
        const files = new Map(revisions.flatMap((one) => one.files.map((file) => [file.name, file.bytes])))
        const gguf = [...files].filter(([file]) => /\.gguf$/i.test(file))
        return [
          [name, `${formatBytes(bytes)}, ${when}`],
          ...gguf.map(([file, size]): [string, string] => [`  :${file}`, formatBytes(size)]),
        ]
      })
      await terminal.write(rows.length === 0 ? '' : formatTable(rows))
    })
}

export function rmCommand(terminal: Terminal): Command {
  return new Command('rm')
    .description('remove a model from the cache, for all tools that share it')
    .argument('<name>', 'owner/name, or owner/name:file.gguf')
    .action(async (name: string) => {
      const { bytes, path } = await removeModel(name)
      await terminal.write(`removed ${name}, ${formatBytes(bytes)}, from ${path}\n`)
    })
}

interface ModelsFlags extends LoadFlags {
  gpu?: DescribedGpu
  json?: boolean
}

/** Heads that the table has rows for: as checkpoints store them, and made 4 bits by `head: 'q4'`. */
const HEADS = ['stored', 'q4'] as const

export function modelsCommand(terminal: Terminal): Command {
  const command = new Command('models')
    .description('which published models fit this machine, in 4 bits, and how fast they would be')
    .option('--json', 'print as JSON')
  return addGpuFlag(addServeFlags(addPlanFlags(command))).action(async ({ json, gpu, ...flags }: ModelsFlags) => {
    const { cpu } = await probe()
    const options = { ...planOptions(flags), gpu }
    const rows: (Row & { model: string; head: HeadType })[] = []
    for (const [model, repository] of Object.entries(REPOSITORIES)) {
      for (const head of HEADS) {
        rows.push({ model, head, repository, ...(await rowOf(model, head, options, cpu.memoryAvailableBytes)) })
      }
    }
    await terminal.write(json ? `${JSON.stringify(rows, null, 2)}\n` : terminal.words(tableOf(rows)))
    if (!json) terminal.note('millrace pull <name> fetches one; head of 4 bits: with --head q4')
  })
}

interface Fit {
  fits: boolean
  device?: string
  ramBytes?: number
  vramBytes?: number
  tokensPerSecond?: number
  homes?: string
  why?: string
}

interface Row extends Fit {
  /** Of the hub, one of its shape. */
  repository: string
}

async function rowOf(model: string, head: HeadType, options: PlanModelOptions, freeBytes: number): Promise<Fit> {
  try {
    const { device, hostBytes, vramBytes, kvBytes, ...made } = await plan(model, {
      ...options,
      head,
    })
    const ramBytes = hostBytes + (device === 'cpu' ? kvBytes : 0)
    const fits = ramBytes <= freeBytes
    const { tokensPerSecond } = made.prediction.single
    const why = fits ? {} : { why: `needs ${formatBytes(ramBytes)} of RAM, ${formatBytes(freeBytes)} are free` }
    const homes = device === 'cpu' ? 'on the CPU' : describeHomes(made)
    return { fits, device, ramBytes, vramBytes: device === 'cpu' ? 0 : vramBytes, tokensPerSecond, homes, ...why }
  } catch (error) {
    if (!MillraceError.isInstance(error) || error.code !== 'OUT_OF_MEMORY') throw error
    return { fits: false, why: error.message }
  }
}

function tableOf(rows: readonly (Row & { model: string; head: string })[]): string {
  const lines = rows.map(
    ({
      model,
      head,
      repository,
      fits,
      ramBytes = 0,
      vramBytes = 0,
      tokensPerSecond = 0,
      homes,
      why,
    }): [string, string] => [
      `${model}, head ${head === 'q4' ? 'of 4 bits' : 'of 16 bits'}`,
      fits
        ? `${significant(tokensPerSecond)} tok/s; RAM ${formatBytes(ramBytes)}${vramBytes > 0 ? `, VRAM ${formatBytes(vramBytes)}` : ''}; ${homes}; ${repository}`
        : `does not fit: ${why}`,
    ],
  )
  return formatTable(lines)
}
