import { basename } from 'node:path'
import { Command } from 'commander'
import { cacheFolder, cacheTroubles, clearCache, listCache } from '../model/cache.ts'
import { formatBytes, formatTable } from './format.ts'
import type { Terminal } from './terminal.ts'

interface Flags {
  folder?: string
  json?: boolean
}

export function cacheCommand(terminal: Terminal): Command {
  const folderOf = ({ folder }: Flags) => cacheFolder(folder ?? true)
  const command = new Command('cache')
    .description('show or empty the folder that keeps repacked weights for next loads')
    .exitOverride() // of its own commands, too
  command
    .command('list', { isDefault: true })
    .description('what is kept, the longest unused first')
    .option('--folder <path>', 'another folder than the default')
    .option('--json', 'print as JSON')
    .action(async (flags: Flags) => {
      const entries = await listCache(folderOf(flags))
      for (const trouble of await cacheTroubles(flags.folder)) terminal.complain(trouble)
      if (flags.json) return terminal.write(`${JSON.stringify(entries, null, 2)}\n`)
      const total = entries.reduce((sum, { bytes }) => sum + bytes, 0)
      const rows = entries.map(({ path, bytes, usedAt }) => {
        return [
          basename(path),
          `${formatBytes(bytes)}, used ${usedAt.toISOString().slice(0, 16).replace('T', ' ')}`,
        ] as const
      })
      await terminal.write(formatTable([['folder', folderOf(flags) ?? 'none'], ...rows, ['all', formatBytes(total)]]))
    })
  command
    .command('clear')
    .description('remove all of it')
    .option('--folder <path>', 'another folder than the default')
    .action(async (flags: Flags) => {
      const removed = await clearCache(folderOf(flags))
      const total = removed.reduce((sum, { bytes }) => sum + bytes, 0)
      await terminal.write(`removed ${removed.length} files, ${formatBytes(total)}\n`)
    })
  return command
}
