// Bundles a program around the tarballs of release/ as docs/BUNDLERS.md says, by esbuild and webpack from npm, and runs the
// bundles. Prints one line a check and their counts.
import { spawnSync } from 'node:child_process'
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

let passed = 0
let failed = 0
function check(what, file, args, expected) {
  const { status, stdout, stderr } = spawnSync(file, args, { cwd: folder, encoding: 'utf8', maxBuffer: 1 << 26 })
  const good = status === 0 && (expected === undefined || stdout.includes(expected))
  process.stdout.write(`${good ? 'ok' : 'FAILED'}: ${what}\n${good ? '' : `${stdout}${stderr}\n`}`)
  good ? passed++ : failed++
  return good
}

try {
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }\n')
  writeFileSync(join(folder, 'app.js'), PROGRAM)
  mkdirSync(join(folder, 'dist'))
  const packages = [...tarballs, 'esbuild@0.25', 'webpack@5']
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
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.stdout.write(`${passed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 ? 0 : 1
