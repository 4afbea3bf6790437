// Bundles a program around the tarballs of release/ as docs/BUNDLERS.md says, by esbuild, webpack and Next.js from npm, and runs
// what they make. Prints one line a check and their counts.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from './build-native.mjs'

const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
const platform = `${process.platform}-${process.arch}`
const tarballs = ['millrace', `millrace-${platform}`].map((name) => join(ROOT, 'release', `${name}-${version}.tgz`))
const folder = mkdtempSync(join(tmpdir(), 'millrace-bundlers-'))

const PROGRAM = `import { load } from 'millrace'
const model = await load(process.argv[2], { device: 'cpu' })
const { text } = await model.generate('Once upon a time', { maxTokens: 8 }).result
console.log(text)
await model.close()
`
const BUILDS = {
  esbuild: `import { build } from 'esbuild'
await build({ entryPoints: ['app.js'], bundle: true, platform: 'node', format: 'esm', target: 'node20', external: ['millrace'], outfile: 'dist/esbuild.mjs' })
`,
  webpack: `import webpack from 'webpack'
const config = {
  mode: 'production',
  target: 'node20',
  entry: './app.js',
  experiments: { outputModule: true },
  externals: { millrace: 'module millrace' },
  output: { path: \`\${process.cwd()}/dist\`, filename: 'webpack.mjs', module: true },
}
webpack(config, (error, stats) => {
  if (!error && !stats.hasErrors()) return
  console.error(error ?? stats.toString())
  process.exitCode = 1
})
`,
}

/** Next.js: a route, and what the framework wants around it. */
const NEXT = {
  'next.config.mjs': "export default { serverExternalPackages: ['millrace'] }\n",
  'app/layout.js': 'export default ({ children }) => <html lang="en"><body>{children}</body></html>\n',
  'app/page.js': 'export default () => <p>millrace</p>\n',
  'app/story/route.js': `import { load } from 'millrace'
export const runtime = 'nodejs'
export const dynamic = 'force-dynamic'
let model
export async function GET() {
  model ??= load('node_modules/millrace/models/demo', { device: 'cpu' })
  const { text } = await (await model).generate('Once upon a time', { maxTokens: 8 }).result
  return Response.json({ text })
}
`,
}

let passed = 0
let failed = 0
function check(what, file, args, expected) {
  const { status, stdout, stderr } = spawnSync(file, args, { cwd: folder, encoding: 'utf8', maxBuffer: 1 << 26 })
  const good = status === 0 && (expected === undefined || stdout.includes(expected))
  process.stdout.write(`${good ? 'ok' : 'FAILED'}: ${what}\n${good ? '' : `${stdout}${stderr}\n`}`)
  good ? passed++ : failed++
  return good
}

/** Starts what Next.js has built, and asks its route. */
async function checkNext() {
  for (const [name, text] of Object.entries(NEXT)) {
    mkdirSync(join(folder, name, '..'), { recursive: true })
    writeFileSync(join(folder, name), text)
  }
  const next = join('node_modules', 'next', 'dist', 'bin', 'next')
  if (!check('Next.js builds', process.execPath, [next, 'build'])) return
  const server = spawn(process.execPath, [next, 'start', '-p', '0'], { cwd: folder })
  try {
    let told = ''
    const url = await new Promise((resolve, reject) => {
      server.on('close', () => reject(new Error(told)))
      for (const stream of [server.stdout, server.stderr]) {
        stream.setEncoding('utf8').on('data', (text) => {
          told += text
          const local = /http:\/\/localhost:\d+/.exec(told)
          if (local && /ready/i.test(told)) resolve(local[0])
        })
      }
    })
    const { text } = await (await fetch(`${url}/story`)).json()
    const good = text?.includes('there was a kind girl') ?? false
    process.stdout.write(`${good ? 'ok' : 'FAILED'}: a route of Next.js speaks\n${good ? '' : `${told}\n`}`)
    good ? passed++ : failed++
  } catch (error) {
    process.stdout.write(`FAILED: a route of Next.js speaks\n${error}\n`)
    failed++
  } finally {
    server.kill()
  }
}

try {
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }\n')
  writeFileSync(join(folder, 'app.js'), PROGRAM)
  mkdirSync(join(folder, 'dist'))
  const packages = [...tarballs, 'esbuild@0.25', 'webpack@5', 'next@16', 'react@19', 'react-dom@19']
  if (!tarballs.every(existsSync)) {
    process.stdout.write('FAILED: release/ has no tarballs of this version and platform: npm run release\n')
    failed++
  } else if (check('npm install', 'npm', ['install', '--no-audit', '--no-fund', ...packages])) {
    const model = join('node_modules', 'millrace', 'models', 'demo')
    for (const [name, text] of Object.entries(BUILDS)) {
      writeFileSync(join(folder, `${name}.js`), text)
      if (check(`${name} bundles`, process.execPath, [`${name}.js`]))
        check(
          `what ${name} made speaks`,
          process.execPath,
          [join('dist', `${name}.mjs`), model],
          'there was a kind girl',
        )
    }
    await checkNext()
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.stdout.write(`${passed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 ? 0 : 1
