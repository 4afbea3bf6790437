// npm run lint: biome, tsc and clang-format; --fix lets biome and clang-format write.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { command, ROOT, SetupError } from './build-native.mjs'

const fix = process.argv.includes('--fix')
const program = (...path) => join(ROOT, 'node_modules', ...path)

/** Whether it is clean; what it says comes whole, since others run beside it. */
function check(what, args) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: ROOT })
    const said = []
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => said.push(chunk))
    child.on('close', (status) => {
      process.stdout.write(Buffer.concat(said))
      process.stdout.write(`${what}: ${status === 0 ? 'clean' : 'FAILED'}\n`)
      resolve(status === 0)
    })
  })
}

function nativeSources() {
  return ['csrc', 'cuda', 'test', 'bench', 'examples']
    .filter((folder) => existsSync(join(ROOT, folder)))
    .flatMap((folder) => readdirSync(join(ROOT, folder), { recursive: true }).map((name) => join(folder, name)))
    .filter((path) => /\.(h|cc|cu|cuh)$/.test(path))
}

await command(async () => {
  const biome = program('@biomejs', 'biome', 'bin', 'biome')
  const format = program('clang-format', 'index.js')
  const results = await Promise.all([
    check('biome', fix ? [biome, 'check', '--write', '.'] : [biome, 'ci', '--error-on-warnings', '.']),
    check('tsc', [program('typescript', 'bin', 'tsc'), '--noEmit']),
    check('clang-format', [format, ...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...nativeSources()]),
  ])
  if (results.includes(false)) throw new SetupError('lint failed.')
})
