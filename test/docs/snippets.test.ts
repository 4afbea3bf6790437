/** TypeScript that the documents show: its types are right, and what needs no GPU runs against models/demo. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import ts from 'typescript'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { build, DIST, ROOT } from '../built.ts'
import { documented, LocalHub } from '../lib/hub/server.ts'
import { documents, type Found, snippetsOf } from './extract.ts'
import { hubEnvironment } from './trials.ts'

const PACKAGES = {
  millrace: 'index',
  'millrace/ai': 'ai/index',
  'millrace/lab': 'lab/index',
  'millrace/server': 'server/index',
}
const folder = mkdtempSync(join(ROOT, '.cmake', 'snippets-'))
let hub: LocalHub
afterAll(() => {
  hub.close()
  rmSync(folder, { recursive: true, force: true })
})
beforeAll(async () => {
  await build()
  hub = await LocalHub.start()
  hub.fallback = documented
})

const snippets = documents().flatMap(snippetsOf)

/** A part of a program gets what it leaves out: the package, and a model of that name. */
function whole({ text }: Found): string {
  if (/^import /m.test(text)) return `${text}\nexport {}\n`
  const model = /\bmodel\b/.test(text) && !/\b(const|let|using) model\b/.test(text)
  return `import * as millrace from 'millrace'
const { load, plan, probe, inspect, calibrate, listCache, clearCache, MillraceError } = millrace
${model ? "const model = await load('models/demo')\n" : ''}${text}
export {}
`
}

test('there are some', () => {
  expect(snippets.length).toBeGreaterThanOrEqual(4)
})

test('their types are right', () => {
  const names = snippets.map((snippet, index) => {
    writeFileSync(join(folder, `${index}.ts`), whole(snippet))
    return `${index}.ts`
  })
  const paths = Object.entries(PACKAGES).map(([name, file]) => [name, [join(DIST, `${file}.d.ts`)]])
  const compilerOptions = {
    ...{ strict: true, noEmit: true, skipLibCheck: true, module: 'nodenext', target: 'es2022' },
    ...{ lib: ['es2023', 'esnext.disposable'], types: ['node'], typeRoots: [join(ROOT, 'node_modules', '@types')] },
    paths: Object.fromEntries(paths),
  }
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: names }))
  const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc')
  const { stdout } = spawnSync(process.execPath, [tsc, '-p', folder, '--pretty', 'false'], { encoding: 'utf8' })
  const told = stdout.replace(/^\S*?(\d+)\.ts/gm, (_, index) => `${snippets[Number(index)]!.where} (${index}.ts)`)
  expect(told).toBe('')
}, 180_000)

const NEEDS_GPU = /'cuda|\.cubin/

test.each(snippets.filter(({ text }) => !NEEDS_GPU.test(text)))('$where runs', async (snippet) => {
  const { outputText } = ts.transpileModule(whole(snippet), {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
  })
  const program = Object.entries(PACKAGES).reduce(
    (text, [name, file]) => text.replaceAll(`from '${name}'`, `from '${pathToFileURL(join(DIST, `${file}.js`)).href}'`),
    outputText,
  )
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: ROOT,
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...hubEnvironment(hub, folder) },
  })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text
  })
  const [code] = await once(child, 'close')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
})
