// Package managers for checks: what is on PATH, or else what npm brings, kept in .cmake/managers.
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { ROOT } from './build-native.mjs'

/** Those that run on Node.js 20. */
const PACKAGES = { pnpm: 'pnpm@10', yarn: '@yarnpkg/cli-dist@4', bun: 'bun@1' }

/** The path of a program on PATH. */
export function findProgram(program) {
  const paths = (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, program))
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** The path of npm, pnpm, yarn or bun; undefined where it is not here and cannot be had. */
export function packageManager(name) {
  const found = findProgram(name)
  if (found !== undefined || !(name in PACKAGES)) return found
  const folder = join(ROOT, '.cmake', 'managers', name)
  const path = join(folder, 'node_modules', '.bin', name)
  if (!existsSync(path)) {
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, 'package.json'), '{ "private": true }\n')
    const { status } = spawnSync('npm', ['install', '--no-audit', '--no-fund', PACKAGES[name]], {
      cwd: folder,
      stdio: ['ignore', 2, 2],
    })
    if (status !== 0) return undefined
  }
  return path
}
