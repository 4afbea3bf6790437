/** Runs what rules.ts makes of commands: each trial once, as a test of its own. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { build, DIST, ROOT } from '../built.ts'
import { documented, LocalHub } from '../lib/hub/server.ts'
import { type Found, wordsOf } from './extract.ts'
import { writePeer } from './peer.ts'
import { type Places, type Trial, trialOf } from './rules.ts'

const setup = pathToFileURL(join(ROOT, 'scripts', 'setup.mjs')).href
const { isSetUp } = (await import(setup)) as { isSetUp(): boolean }

/** Where the trials of this file of tests write. */
export function places(): Places {
  const temporary = mkdtempSync(join(tmpdir(), 'millrace-docs-'))
  const peer = join(temporary, 'peer')
  const where: Places = { temporary, peer, hub: {} }
  let hub: LocalHub
  afterAll(() => {
    hub.close()
    rmSync(temporary, { recursive: true, force: true })
  })
  beforeAll(async () => {
    await build()
    writePeer(peer)
    hub = await LocalHub.start()
    hub.fallback = documented
    where.hub = hubEnvironment(hub, temporary)
    // What a command lists or removes is there.
    await run({ argv: [process.execPath, join(DIST, 'cli', 'main.js'), 'pull', 'Qwen/Qwen3-8B-AWQ'] }, where)
  })
  return where
}

/** Of a process that fetches from a local hub. */
export function hubEnvironment(hub: LocalHub, folder: string): NodeJS.ProcessEnv {
  return {
    HF_ENDPOINT: hub.endpoint,
    HF_HUB_CACHE: join(folder, 'hub'),
    HF_HUB_OFFLINE: '0',
    HF_HUB_DISABLE_IMPLICIT_TOKEN: '1',
  }
}

/** Every trial once, named after the first place that has it; and commands without a rule. */
export function collect(found: readonly Found[], where: Places) {
  const trials = new Map<string, Trial & { name: string }>()
  const failures: string[] = []
  for (const { text, where: place } of found) {
    for (const words of wordsOf(text)) {
      try {
        const trial = trialOf(words, where)
        const key = trial.argv.join(' ')
        if (!trials.has(key)) trials.set(key, { ...trial, name: `${place}: ${words.join(' ')}` })
      } catch (error) {
        failures.push(`${place}: ${(error as Error).message}`)
      }
    }
  }
  return { trials: [...trials.values()], failures }
}

async function run({ argv, input = '' }: Trial, { temporary, hub }: Places) {
  const [program, ...args] = argv
  const { MILLRACE_CACHE: _, ...environment } = process.env
  const child = spawn(program!, args, {
    cwd: ROOT,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...environment, ...hub, XDG_CACHE_HOME: join(temporary, 'caches'), NO_COLOR: '1' },
    timeout: 100_000,
  })
  let output = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text
  })
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text
  })
  child.stdin.on('error', () => {}) // many read nothing
  child.stdin.end(input)
  const [code] = await once(child, 'close')
  return { code, output, stderr }
}

export function runAll(trials: readonly (Trial & { name: string })[], where: Places): void {
  describe('runs', () => {
    for (const trial of trials) {
      const start = trial.argv[0] === 'npm' && trial.skip === undefined
      const why = trial.skip ?? (start && !isSetUp() ? 'npm start would build first' : undefined)
      const name = why === undefined ? trial.name : `${trial.name} (not run: ${why})`
      test.skipIf(why !== undefined)(
        name,
        async () => {
          const { code, output, stderr } = await run(trial, where)
          expect({ code, stderr }, output).toEqual({ code: 0, stderr: expect.not.stringMatching(/^ {4}at /m) })
          for (const expected of trial.expected ?? []) expect(output).toMatch(expected)
        },
        120_000,
      )
    }
  })
}
