/** bench/soak.mjs in small: it asserts by itself, and exits with 1 where a promise is broken. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { build, ROOT } from '../built.ts'

beforeAll(build)

async function soak(...options: string[]) {
  const child = spawn(process.execPath, [join(ROOT, 'bench', 'soak.mjs'), ...options], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text
    })
  }
  const [code] = await once(child, 'close')
  return { code, output }
}

test('a crowd over a KV cache of a third of its need: what finishes is what it is alone', async () => {
  const { code, output } = await soak(
    '--seconds',
    '3',
    '--concurrent',
    '16',
    '--distinct',
    '24',
    '--placement',
    'streamed',
  )
  expect({ code, output }).toEqual({ code: 0, output: expect.stringMatching(/^3 s, 16 at once, streamed/) })
}, 120_000)

test('loads, closes and aborts lose no KV block', async () => {
  const { code, output } = await soak('--cycles', '6', '--aborts', '200')
  expect({ code, output }).toEqual({
    code: 0,
    output: expect.stringMatching(/^6 loads and closes, 200 generations begun/),
  })
}, 120_000)
