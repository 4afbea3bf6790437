// npm test: sets up what is missing, then runs vitest (further arguments go to it) and every C++ test program.
import { command, TREE } from './build-native.mjs'
import { cppPrograms, runPrograms, summary } from './cpp-tests.mjs'
import { setUp } from './setup.mjs'
import { runVitest } from './vitest.mjs'

await command(async () => {
  await setUp({ tests: true })
  const javascript = runVitest(process.argv.slice(2))
  const native = await runPrograms(cppPrograms(TREE))
  process.stdout.write(`\nvitest: ${summary(javascript)}\nC++:    ${summary(native)}\n`)
  const total = {
    passed: javascript.passed + native.passed,
    failed: javascript.failed + native.failed,
    skipped: javascript.skipped + native.skipped,
  }
  process.stdout.write(`${summary(total)}\n`)
  process.exitCode = total.failed === 0 ? 0 : 1
})
