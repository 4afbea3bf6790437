// Packs the package, installs the archive in an empty project as a user would, and uses it there by import and by
// require; publint reads it too. Prints one line a check and their counts.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from './build-native.mjs'

const folder = mkdtempSync(join(tmpdir(), 'millrace-package-'))
// As in a shell of one's own: without what npm tells the scripts it runs.
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_|^INIT_CWD$/i.test(name)))

let passed = 0
let failed = 0

function run(file, args, cwd) {
  const result = spawnSync(file, args, { cwd, encoding: 'utf8', env: environment, maxBuffer: 1 << 28 })
  if (result.error) throw result.error
  return { ...result, output: `${result.stdout}${result.stderr}` }
}

function check(what, file, args, cwd, judge = () => true) {
  const result = run(file, args, cwd)
  const good = result.status === 0 && judge(result.stdout)
  process.stdout.write(`${good ? 'ok' : 'FAILED'}: ${what}\n`)
  if (!good) process.stdout.write(`${result.output.trimEnd().replace(/^/gm, '  ')}\n`)
  good ? passed++ : failed++
  return good
}

try {
  const packed = check('npm pack', 'npm', ['pack', '--pack-destination', folder], ROOT)
  const archive = packed && join(folder, readdirSync(folder).find((name) => name.endsWith('.tgz')) ?? '')
  if (archive) {
    check(
      'publint',
      process.execPath,
      [join(ROOT, 'node_modules', 'publint', 'src', 'cli.js'), archive, '--strict'],
      ROOT,
    )

    const project = join(folder, 'project')
    run('mkdir', ['-p', project])
    writeFileSync(join(project, 'package.json'), '{ "name": "project", "version": "1.0.0", "private": true }\n')
    // Some npm versions run the scripts of dependencies only if asked to; running them again finds the addon built.
    check('npm install', 'npm', ['install', '--no-audit', '--no-fund', archive], project)
    const installed = join(project, 'node_modules', 'millrace')
    if (!existsSync(join(installed, 'build', 'Release', 'millrace.node'))) {
      check('npm rebuild', 'npm', ['rebuild', 'millrace', '--foreground-scripts'], project)
    }
    check(
      'the addon was built in the package',
      'test',
      ['-f', join(installed, 'build', 'Release', 'millrace.node')],
      project,
    )

    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
    const use = `probe().then((report) => console.log(report.version, typeof load, typeof inspect, MillraceError.name))`
    const expected = `${version} function function MillraceError\n`
    const names = '{ load, probe, inspect, MillraceError }'
    const same = (stdout) => stdout === expected
    check(
      'import',
      process.execPath,
      ['--input-type=module', '-e', `import ${names} from 'millrace'; ${use}`],
      project,
      same,
    )
    const quiet = ['--no-warnings=ExperimentalWarning', '--input-type=commonjs']
    check('require', process.execPath, [...quiet, '-e', `const ${names} = require('millrace'); ${use}`], project, same)

    const lab = "operations().some(({ name }) => name === 'gemv_q4')"
    check(
      'import of the lab',
      process.execPath,
      ['--input-type=module', '-e', `import { operations } from 'millrace/lab'; console.log(${lab})`],
      project,
      (stdout) => stdout === 'true\n',
    )

    // Its `ai` is the application's own: none is needed until a model is used.
    const ai = "console.log(millrace({ path: '/a/b' }).modelId)"
    const named = (stdout) => stdout === 'b\n'
    check(
      'import of millrace/ai',
      process.execPath,
      ['--input-type=module', '-e', `import { millrace } from 'millrace/ai'; ${ai}`],
      project,
      named,
    )
    check(
      'require of millrace/ai',
      process.execPath,
      [...quiet, '-e', `const { millrace } = require('millrace/ai'); ${ai}`],
      project,
      named,
    )

    const demo = join(installed, 'models', 'demo')
    const command = join(project, 'node_modules', '.bin', 'millrace')
    const generate = ['generate', demo, '--prompt', 'Once upon a time', '--placement', 'streamed', '--max-tokens', '8']
    check('the command line', command, generate, project, (stdout) => stdout.includes(', there was a kind girl named'))

    writeFileSync(
      join(project, 'types.ts'),
      "import { load, type MillraceError } from 'millrace'\n" +
        "import { type Lab, openLab } from 'millrace/lab'\n" +
        "export const lab: Promise<Lab> = openLab({ device: 'cpu' })\n" +
        "export const model = load('model', { device: 'cpu', placement: 'streamed' })\n" +
        'export const code = (error: MillraceError): string => error.code\n',
    )
    writeFileSync(
      join(project, 'tsconfig.json'),
      JSON.stringify({
        compilerOptions: {
          strict: true,
          noEmit: true,
          module: 'nodenext',
          target: 'es2022',
          lib: ['es2023', 'esnext.disposable', 'dom'],
          types: [],
        },
        files: ['types.ts'],
      }),
    )
    check(
      'its types',
      process.execPath,
      [join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', project],
      project,
    )
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.stdout.write(`${passed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 ? 0 : 1
