/** The package as it is built, for tests of what only exists there: the command, worker threads, process lifetime. */
import { spawnSync } from 'node:child_process'
import { readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
export const DIST = join(ROOT, 'dist')

interface Setup {
  withLock(path: string, body: () => void): Promise<void>
}

/** Builds dist/ if lib/ is newer; test files that run at once take turns. */
export async function build(): Promise<void> {
  const { withLock } = (await import(pathToFileURL(join(ROOT, 'scripts', 'setup.mjs')).href)) as Setup
  await withLock(join(ROOT, '.cmake', 'dist.lock'), () => {
    const built = statSync(join(DIST, 'cli', 'main.js'), { throwIfNoEntry: false })?.mtimeMs ?? 0
    const sources = readdirSync(join(ROOT, 'lib'), { recursive: true }).map((name) => join(ROOT, 'lib', String(name)))
    if (sources.every((path) => statSync(path).mtimeMs <= built)) return
    const tsdown = join(ROOT, 'node_modules', 'tsdown', 'dist', 'run.mjs')
    const { status, stderr } = spawnSync(process.execPath, [tsdown], { cwd: ROOT, encoding: 'utf8' })
    if (status !== 0) throw new Error(`tsdown failed:\n${stderr}`)
  })
}
