// npm test: sets up what is missing, then runs vitest (further arguments go to it) and every C++ test program.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { command, ROOT, TREE } from './build-native.mjs'
import { cppPrograms, runPrograms, summary } from './cpp-tests.mjs'
import { setUp } from './setup.mjs'

function runVitest(args) {
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

await command(async () => {
  await setUp({ tests: true })
  const javascript = runVitest(process.argv.slice(2))
  const native = runPrograms(cppPrograms(TREE))
  process.stdout.write(`\nvitest: ${summary(javascript)}\nC++:    ${summary(native)}\n`)
  const total = {
    passed: javascript.passed + native.passed,
    failed: javascript.failed + native.failed,
    skipped: javascript.skipped + native.skipped,
  }
  process.stdout.write(`${summary(total)}\n`)
  process.exitCode = total.failed === 0 ? 0 : 1
})
