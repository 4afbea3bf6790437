// Brings a clone to where it can run: packages, addon and dist, each only if missing or older than what it is made of.
// Two commands started at once take turns.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ADDON, buildNative, checkTools, ROOT, SetupError, say, TREE } from './build-native.mjs'

const STATE = join(ROOT, '.cmake') // ignored by git and kept by `npm ci`

/** When a process began, in clock ticks since boot: tells a process from a later one with its number. */
function startOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] // field 22 of proc(5)
  } catch {
    return undefined
  }
}

function readLock(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

function isStale(text) {
  const [pid, start] = text.trim().split(' ')
  return startOf(Number(pid)) !== start
}

/** Removes a dead process's lock. Only one at a time may: between reading and removing, a new lock could appear. */
function breakLock(path, seen) {
  const guard = `${path}.breaking`
  try {
    mkdirSync(guard)
  } catch {
    try {
      if (Date.now() - statSync(guard).mtimeMs > 30_000) rmdirSync(guard) // its maker died within a millisecond
    } catch {}
    return
  }
  try {
    if (readLock(path) === seen) unlinkSync(path)
  } finally {
    rmdirSync(guard)
  }
}

/** Runs `body` while this process holds the lock file `path`. A lock whose process is dead counts for nothing. */
export async function withLock(path, body) {
  mkdirSync(dirname(path), { recursive: true })
  const mine = `${process.pid} ${startOf(process.pid)}\n`
  const draft = `${path}.${process.pid}`
  let told = false
  for (;;) {
    writeFileSync(draft, mine)
    try {
      linkSync(draft, path) // appears with its content or not at all
      break
    } catch (error) {
      if (error.code !== 'EEXIST') throw error
    } finally {
      rmSync(draft, { force: true })
    }
    const seen = readLock(path)
    if (seen === undefined) continue
    if (isStale(seen)) {
      breakLock(path, seen)
      continue
    }
    if (!told) say(`process ${seen.split(' ')[0]} is setting up this folder; waiting for it`)
    told = true
    await sleep(200)
  }
  const release = () => {
    if (readLock(path) === mine) rmSync(path, { force: true })
  }
  process.once('exit', release)
  try {
    return await body()
  } finally {
    process.removeListener('exit', release)
    release()
  }
}

/** A digest of every file's path, size and time below `paths`, and of `extra`. */
export function fingerprint(paths, extra = '') {
  const hash = createHash('sha256').update(extra)
  const visit = (path) => {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (!stat) return
    if (stat.isDirectory()) {
      for (const name of readdirSync(path).sort()) visit(join(path, name))
    } else {
      hash.update(`${relative(ROOT, path)} ${stat.size} ${stat.mtimeMs}\n`)
    }
  }
  for (const path of paths) visit(join(ROOT, path))
  return hash.digest('hex')
}

/** Whether all outputs exist and were made from the same inputs. */
function isUpToDate({ name, outputs, inputs }) {
  const stamp = join(STATE, `${name}.inputs`)
  const made = existsSync(stamp) ? readFileSync(stamp, 'utf8') : ''
  return made === inputs() && outputs.every((path) => existsSync(path))
}

function bringUpToDate(part) {
  if (isUpToDate(part)) return
  const stamp = join(STATE, `${part.name}.inputs`)
  const inputs = part.inputs()
  rmSync(stamp, { force: true })
  say(part.what)
  part.make()
  writeFileSync(stamp, inputs)
}

/** Whether node_modules holds what package-lock.json asks for, whoever put it there. */
function packagesInstalled() {
  let wanted, present
  try {
    wanted = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')).packages
    present = JSON.parse(readFileSync(join(ROOT, 'node_modules', '.package-lock.json'), 'utf8')).packages
  } catch {
    return false
  }
  return Object.entries(wanted).every(
    ([path, entry]) => path === '' || present[path]?.version === entry.version || (entry.optional && !present[path]),
  )
}

/** Runs a program whose output matters only if it fails. */
function run(what, file, args) {
  const result = spawnSync(file, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1 << 28 })
  if (result.error) throw new SetupError(`${what} could not be started: ${result.error.message}.`)
  if (result.status === 0) return
  process.stderr.write(result.stdout)
  process.stderr.write(result.stderr)
  throw new SetupError(`${what} failed; what it printed is above.`)
}

function installPackages() {
  if (packagesInstalled()) return
  say('installing packages')
  // npm says where it is; without it (node scripts/start.mjs) the one on PATH will do. The addon is built below, with
  // a message of its own: no scripts.
  const npm = process.env.npm_execpath
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  if (npm?.endsWith('.js')) run('npm ci', process.execPath, [npm, ...args])
  else run('npm ci', 'npm', args)
}

const NATIVE_INPUTS = ['csrc', 'cuda', 'cmake', 'CMakeLists.txt', 'package.json', 'scripts/build-native.mjs']
const NATIVE_TOOLS = ['node_modules/node-addon-api/package.json', 'node_modules/node-api-headers/package.json']

const ADDON_PART = {
  name: 'addon',
  what: 'building the native addon (a minute or two the first time)',
  outputs: [ADDON],
  inputs: () => fingerprint([...NATIVE_INPUTS, ...NATIVE_TOOLS]),
  make: () => buildNative(),
}
const TESTS_PART = {
  name: 'tests',
  what: 'building the C++ tests',
  outputs: [join(TREE, 'test')],
  inputs: () => fingerprint([...NATIVE_INPUTS, 'test']),
  make: () => buildNative({ all: true }),
}
const DIST_PART = {
  name: 'dist',
  what: 'building dist',
  outputs: [join(ROOT, 'dist', 'index.js'), join(ROOT, 'dist', 'cli', 'main.js')],
  inputs: () => fingerprint(['lib', 'package.json', 'package-lock.json', 'tsconfig.json', 'tsdown.config.ts']),
  make: () =>
    run('tsdown', process.execPath, [join(ROOT, 'node_modules', 'tsdown', 'dist', 'run.mjs'), '--logLevel', 'warn']),
}

/** Whether setUp() would find nothing to do. */
export function isSetUp() {
  return packagesInstalled() && [ADDON_PART, DIST_PART].every(isUpToDate)
}

/**
 * @param {{ tests?: boolean, dist?: boolean }} needs tests: the C++ test programs too.
 */
export async function setUp({ tests = false, dist = true } = {}) {
  if (!existsSync(ADDON)) checkTools() // before a minute of installing, not after it
  await withLock(join(STATE, 'setup.lock'), () => {
    installPackages()
    bringUpToDate(ADDON_PART)
    if (tests) bringUpToDate(TESTS_PART)
    if (dist) bringUpToDate(DIST_PART)
  })
}
