// Runs C++ test programs (see test/check.h) and adds up their counts.
//   node scripts/cpp-tests.mjs <tree> [name ...]   only the programs whose name contains one of the names
//   node scripts/cpp-tests.mjs --names <tree> [name ...]   prints their names, which are also their CMake targets
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ROOT } from './build-native.mjs'

function sources(folder, prefix = '') {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (entry.isDirectory()) return sources(join(folder, entry.name), `${prefix}${entry.name}_`)
    return entry.name.endsWith('_test.cc') ? [prefix + entry.name.slice(0, -'.cc'.length)] : []
  })
}

/** The programs that the test folder's sources make in a tree, whether they were built or not; of a GPU's, where they were. */
export function cppPrograms(tree, names = []) {
  return sources(join(ROOT, 'test'))
    .filter((name) => names.length === 0 || names.some((part) => name.includes(part)))
    .sort()
    .map((name) => join(tree, 'test', name))
    .filter((program) => !basename(program).startsWith('cuda_') || existsSync(program)) // trees without CUDA have none
}

export function summary({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}

/** Runs each program, shows what it says beside its counts, and returns the sums. */
export function runPrograms(programs, environment = {}) {
  const total = { passed: 0, failed: 0, skipped: 0 }
  for (const program of programs) {
    const name = basename(program)
    if (!existsSync(program)) {
      process.stdout.write(`${name}: not built\n`)
      total.failed += 1
      continue
    }
    const result = spawnSync(program, [], {
      cwd: ROOT,
      encoding: 'utf8',
      timeout: 600_000,
      maxBuffer: 1 << 28,
      env: { ...process.env, ...environment },
    })
    const lines = result.stdout.trimEnd().split('\n')
    const counts = /^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/.exec(lines.at(-1) ?? '')
    const broken = !counts || (result.status !== 0 && counts[2] === '0')
    total.passed += Number(counts?.[1] ?? 0)
    total.failed += Number(counts?.[2] ?? 0) + (broken ? 1 : 0)
    total.skipped += Number(counts?.[3] ?? 0)
    const end = broken ? `FAILED: ended with ${result.error?.code ?? result.signal ?? `status ${result.status}`}` : ''
    process.stdout.write(`${name}: ${counts?.[0] ?? ''}${counts && end ? ', ' : ''}${end}\n`)
    if (counts) lines.pop()
    if (result.status !== 0 || counts?.[3]) process.stdout.write(lines.map((line) => `  ${line}\n`).join(''))
    if (result.status !== 0) process.stdout.write(result.stderr)
  }
  return total
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const args = process.argv.slice(2)
  const list = args[0] === '--names' && args.shift()
  const [tree, ...names] = args
  const programs = cppPrograms(resolve(ROOT, tree), names)
  if (list) {
    process.stdout.write(`${programs.map((program) => basename(program)).join(' ')}\n`)
  } else {
    const total = runPrograms(programs)
    process.stdout.write(`${summary(total)}\n`)
    process.exitCode = total.failed === 0 && total.passed > 0 ? 0 : 1
  }
}
