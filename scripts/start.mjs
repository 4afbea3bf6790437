// npm start: the demo model tells a story, its layers streamed through a ring; npm start -- "request" asks it for one.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { command, ROOT } from './build-native.mjs'
import { setUp } from './setup.mjs'

const request = process.argv.slice(2).join(' ').trim()
const opening = 'Once upon a time'

await command(async () => {
  await setUp()
  const ask = request === '' ? ['--prompt', opening] : ['--chat', request]
  const how = ['--placement', 'streamed', '--ring', '2', '--max-tokens', '400', '--stats']
  const cli = [join(ROOT, 'dist', 'cli', 'main.js'), 'generate', join(ROOT, 'models', 'demo'), ...ask, ...how]
  const child = spawn(process.execPath, cli, { stdio: ['inherit', 'pipe', 'pipe'] })
  // The model continues the opening; a reader wants the whole story.
  if (request === '') child.stdout.once('data', () => process.stdout.write(opening))
  child.stdout.pipe(process.stdout, { end: false })
  // Figures come after the story, also where both go to one place.
  let telling = false
  let figures = ''
  child.stdout.once('data', () => {
    telling = true
  })
  child.stderr.setEncoding('utf8').on('data', (text) => {
    if (telling) figures += text
    else process.stderr.write(text)
  })
  process.stdout.on('error', () => child.kill('SIGTERM')) // whoever read it has gone
  // Ctrl-C reaches the child too: it ends cleanly and this process repeats its exit code.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  const { code, signal } = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal }))
  })
  if (process.stdout.writableNeedDrain) await new Promise((resolve) => process.stdout.once('drain', resolve))
  process.stderr.write(figures)
  process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1)
})
