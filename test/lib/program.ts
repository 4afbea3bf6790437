/** Programs of their own that use the built package. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { DIST } from '../built.ts'
import { MODELS } from '../models.ts'

/** The package's main module, as a literal. */
export const INDEX = JSON.stringify(pathToFileURL(join(DIST, 'index.js')).href)

/** Runs a module that has `millrace`, `demo` and `stories`. */
export async function program(body: string, flags: string[] = []) {
  const source = `import * as millrace from ${INDEX}
const demo = ${JSON.stringify(join(MODELS, 'demo'))}
const stories = ${JSON.stringify(join(MODELS, 'stories260k'))}
${body}`
  const child = spawn(process.execPath, [...flags, '--input-type=module', '--eval', source], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text
  })
  const [code, signal] = await once(child, 'close')
  return { code, signal, stdout, stderr }
}
