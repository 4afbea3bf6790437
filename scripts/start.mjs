// npm start: the demo model tells a story, its layers streamed through a ring; npm start -- "request" asks it for one.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { command, ROOT } from './build-native.mjs'
import { setUp } from './setup.mjs'

const request = process.argv.slice(2).join(' ').trim()

await command(async () => {
  await setUp()
  const ask = request === '' ? ['--prompt', 'Once upon a time'] : ['--chat', request]
  const child = spawn(
    process.execPath,
    [join(ROOT, 'dist', 'cli', 'main.js'), 'generate', join(ROOT, 'models', 'demo'), ...ask].concat([
      '--placement',
      'streamed',
      '--ring',
      '2',
      '--max-tokens',
      '220',
    ]),
    { stdio: 'inherit' },
  )
  // Ctrl-C reaches the child too: it ends cleanly and this process repeats its exit code.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  const { code, signal } = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', (code, signal) => resolve({ code, signal }))
  })
  process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1)
})
