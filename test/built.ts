/** The package as it is built, for tests of what only exists there: the command, worker threads, process lifetime. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
export const DIST = join(ROOT, 'dist')

/** Builds dist/ if lib/ is newer. */
export function build(): void {
  const oldest = existsSync(join(DIST, 'cli', 'main.js')) ? statSync(join(DIST, 'cli', 'main.js')).mtimeMs : 0
  const newest = Math.max(
    ...readdirSync(join(ROOT, 'lib'), { recursive: true }).map(
      (name) => statSync(join(ROOT, 'lib', String(name))).mtimeMs,
    ),
  )
  if (oldest > newest) return
  const { status, stderr } = spawnSync(process.execPath, [join(ROOT, 'node_modules', 'tsdown', 'dist', 'run.mjs')], {
    cwd: ROOT,
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`tsdown failed:\n${stderr}`)
}
