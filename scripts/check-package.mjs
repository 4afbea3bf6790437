// Installs the tarballs of release/ in an empty project as a user would, on a PATH that has node's own tools and no
// compiler, CMake or Python, and uses them there. Prints one line a check and their counts.
//   node scripts/check-package.mjs [npm|pnpm|yarn|bun]
import { spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { ROOT } from './build-native.mjs'
import { findProgram, packageManager } from './managers.mjs'

const manager = process.argv[2] ?? 'npm'
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
const platform = `${process.platform}-${process.arch}`
const main = join(ROOT, 'release', `millrace-${version}.tgz`)
const native = join(ROOT, 'release', `millrace-${platform}-${version}.tgz`)
const folder = mkdtempSync(join(tmpdir(), 'millrace-package-'))
const project = join(folder, 'project')
const bin = join(folder, 'bin')

// As in a shell of one's own: without what npm tells the scripts it runs, and without anything to build with.
const environment = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^(npm_|INIT_CWD$|MILLRACE_)/i.test(name)),
)
environment.PATH = bin

let passed = 0
let failed = 0
let skipped = 0

function run(file, args, cwd, env = environment) {
  const result = spawnSync(file, args, { cwd, encoding: 'utf8', env, maxBuffer: 1 << 28 })
  if (result.error) throw result.error
  return { ...result, output: `${result.stdout}${result.stderr}` }
}

function report(what, good, output) {
  process.stdout.write(`${good ? 'ok' : 'FAILED'}: ${what}\n`)
  if (!good) process.stdout.write(`${output.trimEnd().replace(/^/gm, '  ')}\n`)
  good ? passed++ : failed++
  return good
}

function check(what, file, args, cwd, judge = () => true) {
  const result = run(file, args, cwd)
  return report(what, result.status === 0 && judge(result.stdout, result.stderr), result.output)
}

function install() {
  writeFileSync(join(project, 'package.json'), '{ "name": "project", "version": "1.0.0", "private": true }\n')
  const tarballs = [main, native]
  switch (manager) {
    case 'npm':
      return check('npm install', 'npm', ['install', '--no-audit', '--no-fund', ...tarballs], project, () =>
        // Scripts of dependencies are held back by some: there are none.
        readFileSync(join(project, 'node_modules', '.package-lock.json'), 'utf8').includes('"millrace"'),
      )
    case 'pnpm':
      return check('pnpm add', 'pnpm', ['add', ...tarballs], project)
    case 'yarn': {
      // It looks into the registry for what a dependency depends on, whatever else is installed.
      const resolutions = { [`@millrace/${platform}`]: `file:${native}` }
      writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'project', private: true, resolutions }))
      writeFileSync(join(project, '.yarnrc.yml'), 'nodeLinker: node-modules\nenableTelemetry: false\n')
      writeFileSync(join(project, 'yarn.lock'), '')
      return check(
        'yarn add',
        'yarn',
        ['add', `millrace@file:${main}`, `@millrace/${platform}@file:${native}`],
        project,
      )
    }
    case 'bun':
      return check('bun add', 'bun', ['add', ...tarballs], project)
    default:
      throw new Error(`expected npm, pnpm, yarn or bun, not ${manager}`)
  }
}

function checkUse() {
  const use = 'probe().then((report) => console.log(report.version, typeof load, typeof inspect, MillraceError.name))'
  const expected = `${version} function function MillraceError\n`
  const names = '{ load, probe, inspect, MillraceError }'
  const same = (stdout) => stdout === expected
  const module = ['--input-type=module', '-e']
  check('import', 'node', [...module, `import ${names} from 'millrace'; ${use}`], project, same)
  const quiet = ['--no-warnings=ExperimentalWarning', '--input-type=commonjs', '-e']
  check('require', 'node', [...quiet, `const ${names} = require('millrace'); ${use}`], project, same)
  const lab =
    "import { operations } from 'millrace/lab'; console.log(operations().some(({ name }) => name === 'gemv_q4'))"
  check('import of the lab', 'node', [...module, lab], project, (stdout) => stdout === 'true\n')
  // Its `ai` is the application's own: none is needed until a model is used.
  const ai = "console.log(millrace({ path: '/a/b' }).modelId)"
  const named = (stdout) => stdout === 'b\n'
  check('import of millrace/ai', 'node', [...module, `import { millrace } from 'millrace/ai'; ${ai}`], project, named)
  check(
    'require of millrace/ai',
    'node',
    [...quiet, `const { millrace } = require('millrace/ai'); ${ai}`],
    project,
    named,
  )
  // As on a Mac: it installs and imports, and says at first use what is the matter.
  const other = `Object.defineProperty(process, 'platform', { value: 'darwin' })
    const { probe } = await import('millrace')
    console.log(await probe().catch(({ code }) => code))`
  check('another platform', 'node', [...module, other], project, (stdout) => stdout === 'PLATFORM_UNSUPPORTED\n')

  const demo = join(realpathSync(join(project, 'node_modules', 'millrace')), 'models', 'demo')
  const generate = ['generate', demo, '--prompt', 'Once upon a time', '--placement', 'streamed', '--max-tokens', '8']
  const told = (stdout) => stdout.includes(', there was a kind girl named')
  const millrace = join(project, 'node_modules', '.bin', 'millrace')
  check('the command', millrace, generate, project, told)
  if (manager === 'npm') check('npx millrace', 'npx', ['--no', 'millrace', ...generate], project, told)
  check('millrace doctor', millrace, ['doctor'], project, (stdout) => /^ok +addon/m.test(stdout))
  const server = 'console.log(typeof serve, typeof millraceServer)'
  const served = (stdout) => stdout === 'function function\n'
  const parts = '{ serve, millraceServer }'
  check(
    'import of millrace/server',
    'node',
    [...module, `import ${parts} from 'millrace/server'; ${server}`],
    project,
    served,
  )
  check(
    'require of millrace/server',
    'node',
    [...quiet, `const ${parts} = require('millrace/server'); ${server}`],
    project,
    served,
  )
  return checkServe(millrace, demo)
}

/** The listening line, an answer of OpenAI's API, the page, and an end that is asked for. */
async function checkServe(millrace, demo) {
  const args = ['serve', `demo=${demo}`, '--port', '0', '--log-level', 'warn']
  const child = spawn(millrace, args, { cwd: project, env: environment, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  const ended = new Promise((done) => child.on('exit', (code, signal) => done(code ?? signal)))
  const listening = new Promise((done) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output += text
        const url = /^millrace: listening on (http:\S+)$/m.exec(output)?.[1]
        if (url !== undefined) done(url)
      })
    }
  })
  const late = setTimeout(() => child.kill('SIGKILL'), 120_000)
  try {
    const url = await Promise.race([listening, ended.then(() => undefined)])
    if (!report('millrace serve listens', url !== undefined, output)) return
    const body = { model: 'demo', prompt: 'Once upon a time', max_tokens: 8, temperature: 0 }
    const headers = { 'content-type': 'application/json' }
    const answer = await fetch(`${url}/v1/completions`, { method: 'POST', headers, body: JSON.stringify(body) })
    const text = await answer.text()
    report('millrace serve answers', answer.ok && text.includes(', there was a kind girl named'), text)
    const page = await (await fetch(url, { headers: { accept: 'text/html' } })).text()
    report('millrace serve has its page', /<!doctype html>/i.test(page), page)
    child.kill('SIGTERM')
    const code = await ended
    report('millrace serve ends when it is asked to', code === 143 || code === 0, `${code}\n${output}`)
  } finally {
    clearTimeout(late)
    child.kill('SIGKILL')
  }
}

const CONSUMER =
  "import { load, type MillraceError, pull } from 'millrace'\n" +
  "import { type Lab, openLab } from 'millrace/lab'\n" +
  "import { millraceServer, type Server, serve } from 'millrace/server'\n" +
  "export const lab: Promise<Lab> = openLab({ device: 'cpu' })\n" +
  "export const model = load('owner/name', { device: 'cpu', placement: 'streamed', revision: 'main' })\n" +
  "export const path: Promise<string> = pull('owner/name').then((pulled) => pulled.path)\n" +
  "export const server: Promise<Server> = serve({ models: { demo: 'a/b' }, port: 0 })\n" +
  'export const plugin = (app: Parameters<typeof millraceServer>[0]) => millraceServer(app, { models: {} })\n' +
  'export const code = (error: MillraceError): string => error.code\n'

/** Its types are the AI SDK's, which an application that imports it has. */
const AI_CONSUMER =
  "import { load } from 'millrace'\n" +
  "import { millrace } from 'millrace/ai'\n" +
  "export const id: Promise<string> = load('owner/name').then((model) => millrace(model).modelId)\n"

/** ESM and CommonJS, by the ways that TypeScript finds types. */
function checkTypes() {
  const provider = join(project, 'node_modules', '@ai-sdk', 'provider')
  const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc')
  const lib = ['es2023', 'esnext.disposable', 'dom']
  for (const [name, file, options, consumer = CONSUMER] of [
    ['node16', 'types.mts', { module: 'node16' }],
    ['nodenext', 'types.mts', { module: 'nodenext' }],
    ['nodenext, from CommonJS', 'types.cts', { module: 'nodenext' }],
    ['bundler', 'types.ts', { module: 'esnext', moduleResolution: 'bundler' }],
    ['node16, millrace/ai', 'types.mts', { module: 'node16', skipLibCheck: true }, AI_CONSUMER],
  ]) {
    if (consumer === AI_CONSUMER && !existsSync(provider)) {
      mkdirSync(dirname(provider), { recursive: true })
      symlinkSync(join(ROOT, 'node_modules', '@ai-sdk', 'provider'), provider)
    }
    writeFileSync(join(project, file), consumer)
    const compilerOptions = { strict: true, noEmit: true, target: 'es2022', types: [], lib, ...options }
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [file] }))
    check(`its types, module ${name}`, process.execPath, [tsc, '-p', project], project)
  }
}

try {
  mkdirSync(project)
  mkdirSync(bin)
  // A shell too, and what pnpm's start scripts call: npx and the managers start programs by it.
  for (const tool of new Set(['node', 'npm', 'npx', 'sh', 'sed', 'dirname', 'uname', manager])) {
    const path = tool === 'node' ? process.execPath : tool === manager ? packageManager(tool) : findProgram(tool)
    if (path !== undefined) symlinkSync(path, join(bin, tool))
  }
  if (!existsSync(join(bin, manager))) {
    process.stdout.write(`not run: ${manager} is not here\n`)
    skipped++
  } else if (!existsSync(main) || !existsSync(native)) {
    process.stdout.write('FAILED: release/ has no tarballs of this version and platform: npm run release\n')
    failed++
  } else if (install()) {
    await checkUse()
    checkTypes()
    if (manager === 'npm') {
      const publint = join(ROOT, 'node_modules', 'publint', 'src', 'cli.js')
      check('publint', process.execPath, [publint, main, '--strict'], ROOT)
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.stdout.write(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`)
process.exitCode = failed === 0 ? 0 : 1
