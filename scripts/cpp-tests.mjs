// Runs C++ test programs (see test/check.h) and adds up their counts.
//   node scripts/cpp-tests.mjs <tree> [name ...]   only the programs whose name contains one of the names
//   node scripts/cpp-tests.mjs --names <tree> [name ...]   prints their names, which are also their CMake targets
import { spawn } from 'node:child_process'
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
    .filter((program) => !/^cuda_(?!plan_)/.test(basename(program)) || existsSync(program)) // trees without CUDA have none
}

export function summary({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}

/** What a program says, both outputs apart, and how it ended. */
function run(program, environment) {
  const begin = performance.now()
  return new Promise((resolve) => {
    const seconds = () => (performance.now() - begin) / 1000
    const child = spawn(program, [], { cwd: ROOT, timeout: 600_000, env: { ...process.env, ...environment } })
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text))
    child.on('error', (error) => resolve({ stdout, stderr, end: error.code, seconds: seconds() }))
    child.on('close', (status, signal) => {
      resolve({ stdout, stderr, status, end: signal ?? `status ${status}`, seconds: seconds() })
    })
  })
}

function report(name, { stdout, stderr, status, end, seconds }, total) {
  const lines = stdout.trimEnd().split('\n')
  const counts = /^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/.exec(lines.at(-1) ?? '')
  const broken = !counts || (status !== 0 && counts[2] === '0')
  total.passed += Number(counts?.[1] ?? 0)
  total.failed += Number(counts?.[2] ?? 0) + (broken ? 1 : 0)
  total.skipped += Number(counts?.[3] ?? 0)
  const fault = broken ? `FAILED: ended with ${end}` : ''
  process.stdout.write(`${name}: ${counts?.[0] ?? ''}${counts && fault ? ', ' : ''}${fault}, ${seconds.toFixed(1)} s\n`)
  if (counts) lines.pop()
  if (status !== 0 || counts?.[3]) process.stdout.write(lines.map((line) => `  ${line}\n`).join(''))
  if (status !== 0) process.stdout.write(stderr)
}

/** Runs the programs, two at once, shows what each says beside its counts as it ends, and resolves to the sums. */
export async function runPrograms(programs, environment = {}) {
  const total = { passed: 0, failed: 0, skipped: 0 }
  const queue = programs.values()
  const take = async () => {
    for (const program of queue) {
      const name = basename(program)
      if (existsSync(program)) {
        report(name, await run(program, environment), total)
      } else {
        process.stdout.write(`${name}: not built\n`)
        total.failed += 1
      }
    }
  }
  // Most of a program's time is one thread's.
  await Promise.all([take(), take()])
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
    const total = await runPrograms(programs)
    process.stdout.write(`${summary(total)}\n`)
    process.exitCode = total.failed === 0 && total.passed > 0 ? 0 : 1
  }
}
