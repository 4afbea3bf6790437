import { execFile, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { loadAddon, packageRoot } from '../lib/binding.ts'

const root = packageRoot()
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const start = promisify(execFile)

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-test-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

describe('package.json', () => {
  test('spares cmake-js the download of headers', () => {
    expect(manifest.binary).toEqual({ napi_versions: [8] })
  })

  test('lists what the package needs, and nothing that is not there', () => {
    const made = ['dist'] // by npm pack
    for (const path of manifest.files) if (!made.includes(path)) expect(existsSync(join(root, path)), path).toBe(true)
    // `millrace build` runs it in the installed package.
    expect(manifest.files).toContain('scripts/build-native.mjs')
  })

  test('runs nothing at installation, and refuses no platform there', () => {
    for (const script of ['preinstall', 'install', 'postinstall']) expect(manifest.scripts[script]).toBeUndefined()
    // npm compiles by itself what has a binding.gyp.
    expect(manifest.gypfile).toBe(false)
    expect(existsSync(join(root, 'binding.gyp'))).toBe(false)
    expect(manifest).not.toHaveProperty('os')
    expect(manifest).not.toHaveProperty('cpu')
    for (const field of ['repository', 'bugs', 'homepage']) expect(manifest[field]).toBeTruthy()
  })

  test('every document promises the glibc that the release checks', () => {
    const told = /glibc (\d\.\d\d)/
    const [, floor] = /FLOOR = '([\d.]+)'/.exec(readFileSync(join(root, 'scripts', 'check-addon.mjs'), 'utf8'))!
    for (const path of ['README.md', 'CONTRIBUTING.md', 'docs/DEPLOY.md']) {
      expect(told.exec(readFileSync(join(root, path), 'utf8'))?.[1], path).toBe(floor)
    }
    // The addon's package has its own README, which the release writes.
    expect(readFileSync(join(root, 'scripts', 'release.mjs'), 'utf8')).not.toMatch(told)
  })

  test('the lock file names no download host and every package has a digest', () => {
    const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
    for (const [path, entry] of Object.entries<Record<string, unknown>>(packages)) {
      if (path === '') continue
      expect(entry.resolved, path).toBeUndefined()
      expect(entry.integrity, path).toMatch(/^sha512-/)
    }
  })
})

describe('a missing addon', () => {
  test('is ADDON_NOT_BUILT with its remedy, and importing alone does not fail', () => {
    writeFileSync(
      join(folder, 'use.mjs'),
      `import { probe } from ${JSON.stringify(join(root, 'dist', 'index.js'))}
       probe().then(() => console.log('loaded'), (error) => console.log(JSON.stringify({ ...error, text: error.message })))`,
    )
    const environment = { ...process.env, MILLRACE_PREBUILD: folder } // where node-gyp-build looks instead
    const { stdout, stderr } = spawnSync(process.execPath, [join(folder, 'use.mjs')], {
      encoding: 'utf8',
      env: environment,
    })
    expect(stderr).toBe('')
    const error = JSON.parse(stdout)
    expect(error.code).toBe('ADDON_NOT_BUILT')
    expect(error.remedy).toContain('npx millrace build')
    expect(error.text).toContain(`the package @millrace/linux-${process.arch}`)
  })
})

describe('another platform', () => {
  test.each([
    ['win32', 'x64', /WSL2/],
    ['darwin', 'arm64', /Linux/],
    ['linux', 'riscv64', /Linux/],
  ])('%s on %s is PLATFORM_UNSUPPORTED at first use', (platform, arch, remedy) => {
    try {
      loadAddon(platform, arch)
      expect.unreachable()
    } catch (error) {
      expect(error).toMatchObject({ code: 'PLATFORM_UNSUPPORTED', remedy: expect.stringMatching(remedy) })
    }
  })
})

describe('README.md', () => {
  test('is read in a minute or two', () => {
    expect(readFileSync(join(root, 'README.md'), 'utf8').split(/\s+/).length).toBeLessThanOrEqual(600)
  })

  test('links to what is there, as the guides do', () => {
    const documents = [
      'README.md',
      ...readdirSync(join(root, 'docs'))
        .filter((name) => name.endsWith('.md'))
        .map((name) => join('docs', name)),
    ]
    for (const path of documents) {
      for (const [, target] of readFileSync(join(root, path), 'utf8').matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)) {
        expect(existsSync(join(root, path, '..', target!)), `${path}: ${target}`).toBe(true)
      }
    }
  })
})

describe('scripts/build-native.mjs', () => {
  const build = (...tools: string[]) => {
    const bin = join(folder, 'bin')
    mkdirSync(bin)
    for (const tool of tools) symlinkSync('/bin/true', join(bin, tool))
    const script = join(root, 'scripts', 'build-native.mjs')
    return spawnSync(process.execPath, [script], { encoding: 'utf8', env: { PATH: bin, HOME: folder } })
  }

  test('names the packages of a missing compiler and CMake in one sentence', () => {
    const { status, stderr } = build('make')
    expect(status).toBe(1)
    expect(stderr.trim().split('\n')).toHaveLength(1)
    expect(stderr).toContain('a C++ compiler and CMake')
    expect(stderr).toContain('sudo apt install g++ cmake`')
    expect(stderr).toContain('sudo dnf install gcc-c++ cmake`')
  })

  test('asks only for what is missing', () => {
    const { status, stderr } = build('clang++', 'ninja')
    expect(status).toBe(1)
    expect(stderr).toContain('sudo apt install cmake`')
    expect(stderr).not.toContain('g++')
  })

  test('names an argument that it does not know', () => {
    const script = join(root, 'scripts', 'build-native.mjs')
    const { status, stderr } = spawnSync(process.execPath, [script, '--al'], { encoding: 'utf8' })
    expect(status).toBe(1)
    expect(stderr).toContain('unknown argument --al')
  })
})

describe('the set-up lock', () => {
  // Adds one to a number in a file, slowly enough that two at once would lose an addition.
  const addition = (lock: string, file: string) => `
    import { readFileSync, writeFileSync } from 'node:fs'
    import { setTimeout } from 'node:timers/promises'
    import { withLock } from ${JSON.stringify(join(root, 'scripts', 'setup.mjs'))}
    await withLock(${JSON.stringify(lock)}, async () => {
      const value = Number(readFileSync(${JSON.stringify(file)}, 'utf8'))
      await setTimeout(30)
      writeFileSync(${JSON.stringify(file)}, String(value + 1))
    })`

  const addFrom = async (processes: number, prepare: (lock: string) => void) => {
    const [lock, file] = [join(folder, 'state', 'lock'), join(folder, 'number')]
    writeFileSync(file, '0')
    mkdirSync(join(folder, 'state'))
    prepare(lock)
    const args = ['--input-type=module', '-e', addition(lock, file)]
    await Promise.all(Array.from({ length: processes }, () => start(process.execPath, args)))
    expect(existsSync(lock)).toBe(false)
    return Number(readFileSync(file, 'utf8'))
  }

  test('lets one process in at a time', async () => {
    expect(await addFrom(5, () => {})).toBe(5)
  })

  test('of a dead process is broken, by one of those that wait', async () => {
    expect(await addFrom(5, (lock) => writeFileSync(lock, '4194304 1\n'))).toBe(5)
  })

  test('of a number that another process has since been given is broken', async () => {
    expect(await addFrom(2, (lock) => writeFileSync(lock, `${process.pid} 1\n`))).toBe(2)
  })
})
