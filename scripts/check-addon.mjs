// What an addon needs of the system that loads it, read from its dynamic symbols.
//   node scripts/check-addon.mjs <millrace.node>
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { command, SetupError } from './build-native.mjs'

/** What every system of this age has: Debian 11, Ubuntu 20.04, and what Node.js itself needs. */
export const FLOOR = '2.31'
const LIBRARIES = /^(ld-linux-(x86-64|aarch64)\.so\.\d|lib(c|m|dl|rt|pthread|gcc_s)\.so\.\d)$/

const parts = (version) => version.split('.').map(Number)
const isNewer = (a, b) => {
  const [left, right] = [parts(a), parts(b)]
  const at = left.findIndex((part, index) => part !== (right[index] ?? 0))
  return at >= 0 && left[at] > (right[at] ?? 0)
}

/** Sentences about it. Throws a SetupError where it needs more than it may. */
export function checkAddon(path) {
  const symbols = execFileSync('objdump', ['-T', path], { encoding: 'utf8', maxBuffer: 1 << 26 })
  const headers = execFileSync('objdump', ['-p', path], { encoding: 'utf8', maxBuffer: 1 << 26 })
  const needed = [...headers.matchAll(/^ +NEEDED +(\S+)$/gm)].map(([, name]) => name)
  const foreign = needed.filter((name) => !LIBRARIES.test(name))
  if (foreign.length > 0) throw new SetupError(`${path} needs ${foreign.join(', ')}, which systems may not have.`)
  const undefined_ = [...symbols.matchAll(/\*UND\*.*?\(?GLIBC_([\d.]+)\)? +(\S+)$/gm)]
  const beyond = undefined_.filter(([, version]) => isNewer(version, FLOOR))
  if (beyond.length > 0) {
    const list = beyond.map(([, version, name]) => `${name} (glibc ${version})`).join(', ')
    throw new SetupError(
      `${path} needs more than glibc ${FLOOR}: ${list}. cmake/MillracePortable.cmake wraps such names.`,
    )
  }
  const newest = undefined_.map(([, version]) => version).reduce((a, b) => (isNewer(b, a) ? b : a), '2.0')
  return [`needs glibc ${newest}, ${needed.join(', ')}`]
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await command(() => {
    for (const line of checkAddon(process.argv[2] ?? '')) process.stdout.write(`${line}\n`)
  })
}
