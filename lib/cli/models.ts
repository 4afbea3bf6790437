/** pull, ls, rm: models of the hub, and the cache that keeps them. */
import { Command } from 'commander'
import { listModels, removeModel } from '../hub/manage.ts'
import { pull } from '../hub/pull.ts'
import { formatBytes, formatTable } from './format.ts'
import { addHubFlags, type HubFlags } from './options.ts'
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
