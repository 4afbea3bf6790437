// Builds the addon (and, when asked, the C++ tests and benches) through cmake-js, resolved by path: no Python, no
// header download. No dependency of its own, since it runs before or during an installation.
//
//   node scripts/build-native.mjs [--all] [--bench] [--quiet] [-DNAME=VALUE ...]
//
// The tree is .cmake/Release and keeps the generator it was configured with. --all builds every target, the tests
// included, and not only millrace.node; --quiet prints what was found of CUDA and the result. MILLRACE_CUDA and
// MILLRACE_CUDA_ARCHITECTURES may be set in the environment, for builds that somebody else's command starts.
import { execFileSync, spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
export const TREE = join(ROOT, '.cmake', 'Release')
export const ADDON = join(ROOT, 'build', 'Release', 'millrace.node')

/** A failure that is the user's to mend: printed as one sentence, without a stack. */
export class SetupError extends Error {}

/** Runs `main`, turning a SetupError into its sentence and exit code 1. */
export async function command(main) {
  try {
    await main()
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    process.stderr.write(`millrace: ${error.message}\n`)
    process.exitCode = 1
  }
}

export function say(text) {
  process.stderr.write(`millrace: ${text}\n`)
}

function onPath(program) {
  if (program.includes('/')) return existsSync(program)
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK)
      return folder !== ''
    } catch {
      return false
    }
  })
}

/** Refuses, in one sentence that names the packages, to start a build that cannot end well. */
export function checkTools() {
  if (process.platform !== 'linux') {
    throw new SetupError(`the native addon builds on Linux, x64 and arm64; this is ${process.platform}.`)
  }
  const compilers = [process.env.CXX?.split(' ')[0], 'g++', 'clang++'].filter(Boolean)
  const missing = []
  if (!compilers.some(onPath)) missing.push({ what: 'a C++ compiler', debian: 'g++', fedora: 'gcc-c++' })
  if (!onPath('cmake')) missing.push({ what: 'CMake', debian: 'cmake', fedora: 'cmake' })
  if (!onPath('ninja') && !onPath('make')) missing.push({ what: 'make', debian: 'make', fedora: 'make' })
  if (missing.length > 0) {
    const list = (key) => missing.map((tool) => tool[key]).join(' ')
    const what = missing.map((tool) => tool.what).join(' and ')
    throw new SetupError(
      `to compile its native addon it needs ${what}: install with \`sudo apt install ${list('debian')}\` ` +
        `(Debian, Ubuntu) or \`sudo dnf install ${list('fedora')}\` (Fedora), then try again.`,
    )
  }
  const version = /version (\d+)\.(\d+)/.exec(execFileSync('cmake', ['--version'], { encoding: 'utf8' }))
  if (version && Number(version[1]) * 1000 + Number(version[2]) < 3018) {
    throw new SetupError(`it needs CMake 3.18 or newer, and found ${version[1]}.${version[2]}: install a newer cmake.`)
  }
}

/** The tree's recorded generator, or the better one that is here. */
function generator(tree) {
  const recorded = cached(tree, 'CMAKE_GENERATOR')
  const program = { Ninja: 'ninja', 'Unix Makefiles': 'make' }
  if (recorded && onPath(program[recorded] ?? recorded)) return recorded
  if (recorded) rmSync(tree, { recursive: true, force: true }) // its program is gone: the tree cannot be built any more
  return onPath('ninja') ? 'Ninja' : 'Unix Makefiles'
}

function cached(tree, name) {
  const cache = join(tree, 'CMakeCache.txt')
  if (!existsSync(cache)) return undefined
  const source = /^CMAKE_HOME_DIRECTORY:[A-Z]+=(.*)$/m.exec(readFileSync(cache, 'utf8'))?.[1]
  if (source !== ROOT) {
    // The folder was moved or copied: CMake refuses such a tree.
    rmSync(tree, { recursive: true, force: true })
    return undefined
  }
  return new RegExp(`^${name}:[A-Z]+=(.*)$`, 'm').exec(readFileSync(cache, 'utf8'))?.[1]
}

/**
 * @param {{ all?: boolean, target?: string, defines?: Record<string, string>, quiet?: boolean, tree?: string }} options
 *   all: every target, or else only this one; defines: CMake cache entries, kept by the tree; quiet: of the output only
 *   what was found of CUDA, unless the build fails; tree: where it is built.
 */
export function buildNative({ all = false, target = 'millrace', defines = {}, quiet = false, tree = TREE } = {}) {
  checkTools()
  let cmakeJs
  try {
    cmakeJs = join(
      dirname(createRequire(join(ROOT, 'package.json')).resolve('cmake-js/package.json')),
      'bin',
      'cmake-js',
    )
  } catch {
    throw new SetupError('cmake-js is not installed: run `npm install` first.')
  }
  const run = (...args) => {
    const full = [cmakeJs, ...args, '-d', ROOT, '-O', tree, '-B', 'Release', '-l', 'error', '-G', generator(tree)]
    const result = spawnSync(process.execPath, full, {
      cwd: ROOT,
      stdio: quiet ? ['ignore', 'pipe', 'pipe'] : ['ignore', 2, 2],
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    })
    if (result.error) throw result.error
    if (quiet) for (const [, found] of `${result.stdout}${result.stderr}`.matchAll(/^-- (CUDA: .*)$/gm)) say(found)
    if (result.status !== 0) {
      if (quiet) process.stderr.write(result.stdout + result.stderr)
      throw new SetupError(`the native build failed (${args[0]}); what it printed is above.`)
    }
  }
  const parallel = String(Math.max(1, availableParallelism()))
  const cuda = ['MILLRACE_CUDA', 'MILLRACE_CUDA_ARCHITECTURES'].filter((name) => process.env[name])
  const entries = { ...Object.fromEntries(cuda.map((name) => [name, process.env[name]])), ...defines }
  run('configure', ...Object.entries(entries).map(([name, value]) => `--CD${name}=${value}`))
  run('build', '-p', parallel, ...(all ? [] : ['-T', target]))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await command(() => {
    const options = { all: false, defines: {} }
    for (const argument of process.argv.slice(2)) {
      const define = /^-D(\w+)=(.*)$/.exec(argument)
      if (define) options.defines[define[1]] = define[2]
      else if (argument === '--all') options.all = true
      else if (argument === '--quiet') options.quiet = true
      else if (argument === '--bench') options.defines.MILLRACE_BENCH = 'ON'
      else throw new SetupError(`unknown argument ${argument}: expected --all, --bench, --quiet or -DNAME=VALUE.`)
    }
    if (options.defines.MILLRACE_BENCH === 'ON') options.all = true
    buildNative(options)
    say(`built ${ADDON}`)
  })
}
