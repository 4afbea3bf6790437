/** What commands write, and where they cannot: one sentence, a sensible exit code, and never a hang. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { build, DIST, ROOT } from '../../built.ts'
import { temporaryFolder } from '../folder.ts'

beforeAll(build)
const demo = join(ROOT, 'models', 'demo')
const MAIN = join(DIST, 'cli', 'main.js')

/** By a shell, so that streams go where users send them: `$millrace` is the command. */
async function shell(script: string, environment: NodeJS.ProcessEnv = {}) {
  const child = spawn(
    'bash',
    ['-o', 'pipefail', '-c', `millrace() { "${process.execPath}" "${MAIN}" "$@"; }; ${script}`],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, MILLRACE_CACHE: 'on', XDG_CACHE_HOME: '', ...environment },
      timeout: 50_000,
    },
  )
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text
  })
  const [code] = await once(child, 'close')
  return { code, stdout, stderr }
}

describe('standard output', () => {
  test.each([
    `generate ${demo} Once --max-tokens 3 --quiet`,
    `generate ${demo} Once --max-tokens 3 --quiet --json`,
    `score ${demo} "Once upon a time" --quiet`,
    `inspect ${demo} --json`,
    'plan llama3-8b',
    'probe',
    'cache',
    '--help',
    'bench decode --help',
    '--version',
  ])('%s > /dev/full', async (command) => {
    const { code, stderr } = await shell(`millrace ${command} > /dev/full`)
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'millrace: standard output could not be written to: no space left on device (ENOSPC)\n',
    })
  })

  test('chat from a pipe into a full disk', async () => {
    const { code, stderr } = await shell(
      `printf 'Hi\\nHi\\n' | millrace chat ${demo} --max-tokens 3 --quiet > /dev/full`,
    )
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/^millrace: standard output .*\n$/) })
  })

  test.each([`generate ${demo} Once --temperature 3 --quiet`, 'plan llama3-8b --json', '--help'])(
    '%s | head -1 is quiet',
    async (command) => {
      expect(await shell(`millrace ${command} | head -1`)).toMatchObject({ code: 0, stderr: '' })
    },
  )

  test('complaints that go nowhere cost no result', async () => {
    const { code, stdout } = await shell(`millrace generate ${demo} Once --max-tokens 3 2> /dev/full`)
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/\w\n$/) })
  })
})

describe('standard input', () => {
  test.each([`generate ${demo}`, `chat ${demo}`, `score ${demo}`])('%s < folder', async (command) => {
    const { code, stderr } = await shell(`millrace ${command} --quiet < /`)
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringMatching(/^INVALID_ARGUMENT: standard input cannot be read: it is a folder\n {2}\w.*\n$/),
    })
  })
})

describe('files', () => {
  test('a trace that does not fit is told, and the answer is there', async () => {
    const { code, stdout, stderr } = await shell(
      `millrace generate ${demo} Once --max-tokens 3 --quiet --trace /dev/full`,
    )
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^WRITE_FAILED: the trace '\/dev\/full' is not whole: No space.*\n {2}give a path/),
    })
    expect(stdout).toMatch(/\w\n$/)
  })

  test.each([
    `generate ${demo} Once --trace /`,
    `generate ${demo} Once --trace /nowhere/trace.json`,
    'bench decode smollm2-135m --trace /nowhere/trace.json',
    'bench stream llama3-8b --json /nowhere/runs.json',
    'bench stream llama3-8b --html /',
  ])('%s is refused before anything is loaded', async (command) => {
    const { code, stdout, stderr } = await shell(`millrace ${command}`)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(
      /^INVALID_ARGUMENT: --(trace|json|html): the file cannot be written: .*'?\/.*\n {2}pass the path/,
    )
  })

  test('the trace of a model of random weights is written', async () => {
    const folder = await temporaryFolder({})
    const args = '--head q4 --prompt 4 --tokens 2 --runs 1 --quiet'
    const { code } = await shell(`millrace bench decode smollm2-135m ${args} --trace ${folder}/trace.json`)
    expect(code).toBe(0)
    expect(JSON.parse(readFileSync(join(folder, 'trace.json'), 'utf8')).length).toBeGreaterThan(10)
  })
})

/** A model that is large enough to be kept, once a file. */
let large = ''
async function largeModel(): Promise<string> {
  if (large !== '') return large
  const folder = await temporaryFolder({})
  const bench = join(ROOT, 'bench', 'node', 'start.mjs')
  const args = ['--shape', 'smollm2-135m', '--layers', '1', '--device', 'cpu', '--runs', '0', '--no-repack']
  const { status, stderr } = spawnSync(process.execPath, [bench, ...args, '--folder', folder], { encoding: 'utf8' })
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  large = folder
  return folder
}

describe('a cache that cannot be kept', () => {
  const odd: [string, NodeJS.ProcessEnv, RegExp][] = [
    ['under /proc', { XDG_CACHE_HOME: '/proc' }, /\/proc\/millrace\/packed.*ENOENT/],
    ['of a home under /proc', { HOME: '/proc/1/nothing' }, /\/proc\/1\/nothing\/.*ENOENT/],
    ['below a file', { XDG_CACHE_HOME: '/dev/null' }, /\/dev\/null\/millrace\/packed.*ENOTDIR/],
    ['of a name too long', { MILLRACE_CACHE: `/tmp/${'x'.repeat(300)}` }, /ENAMETOOLONG/],
    ['below its limit', { MILLRACE_CACHE_LIMIT: '1MB' }, /the cache may take 1000000 \(see MILLRACE_CACHE_LIMIT\)/],
  ]
  test.each(odd)('%s: the load does not fail, and says why', async (_, environment, why) => {
    const caches = await temporaryFolder({})
    const { code, stdout, stderr } = await shell(
      `millrace generate ${await largeModel()} Once --max-tokens 2 --ignore-eos --quiet`,
      { XDG_CACHE_HOME: environment.HOME ? '' : caches, ...environment },
    )
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.stringMatching(
        /^warning: the packed file was not written to \/.*; MILLRACE_CACHE names another folder, or off\n$/,
      ),
    })
    expect(stderr).toMatch(why)
    expect(stdout.endsWith('\n')).toBe(true)
  })

  test.each([
    ['under /proc', { XDG_CACHE_HOME: '/proc' }, 0, /weights cannot be kept in \/proc\/\S+: \/proc has no room/],
    ['below a file', { XDG_CACHE_HOME: '/dev/null' }, 2, /'\/dev\/null\/millrace\/packed': not a directory/],
    ['turned off', { MILLRACE_CACHE: 'off' }, 0, /MILLRACE_CACHE turns it off/],
    ['with a limit that is none', { MILLRACE_CACHE_LIMIT: 'plenty' }, 0, /MILLRACE_CACHE_LIMIT is 'plenty', .*'50GiB'/],
  ] as const)('%s: millrace cache says so', async (_, environment, code, why) => {
    const outcome = await shell('millrace cache', environment)
    expect(outcome).toMatchObject({ code, stderr: expect.stringMatching(why) })
  })

  test('a wrong limit is told by every load that heeds it, small models included', async () => {
    const { code, stderr } = await shell(`millrace generate ${demo} Once --max-tokens 2 --quiet`, {
      MILLRACE_CACHE_LIMIT: 'plenty',
    })
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.stringMatching(/^warning: MILLRACE_CACHE_LIMIT is 'plenty', .*\n$/),
    })
    const off = await shell(`millrace generate ${demo} Once --max-tokens 2 --quiet --no-cache`, {
      MILLRACE_CACHE_LIMIT: 'plenty',
    })
    expect(off).toMatchObject({ code: 0, stderr: '' })
  })

  test('clear says which file it could not remove', async () => {
    const folder = await temporaryFolder({})
    mkdirSync(join(folder, 'cache'))
    writeFileSync(join(folder, 'cache', 'a.packed'), 'x')
    const { code, stdout } = await shell(`millrace cache clear --folder ${folder}/cache`)
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'removed 1 files, 1 B\n' })
  })
})
