// Runs vitest with the arguments given, and prints its counts last as every test program here does.
//   node scripts/vitest.mjs [file or option ...]
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ROOT } from './build-native.mjs'
import { summary } from './cpp-tests.mjs'

/** { passed, failed, skipped }. */
export function runVitest(args) {
  mkdirSync(join(ROOT, '.cmake'), { recursive: true })
  const folder = mkdtempSync(join(ROOT, '.cmake', 'vitest-'))
  const report = join(folder, 'report.json')
  try {
    const vitest = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs')
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
    const { status } = spawnSync(process.execPath, [vitest, 'run', ...reporters, ...args], {
      cwd: ROOT,
      stdio: 'inherit',
    })
    const counts = JSON.parse(readFileSync(report, 'utf8'))
    let failed = counts.numFailedTests
    // A file that cannot be loaded has no tests to fail.
    if (status !== 0 && failed === 0) failed = Math.max(1, counts.numFailedTestSuites)
    return { passed: counts.numPassedTests, failed, skipped: counts.numPendingTests + counts.numTodoTests }
  } catch (error) {
    process.stderr.write(`millrace: vitest left no report: ${error.message}\n`)
    return { passed: 0, failed: 1, skipped: 0 }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const counts = runVitest(process.argv.slice(2))
  process.stdout.write(`${summary(counts)}\n`)
  process.exitCode = counts.failed === 0 ? 0 : 1
}
