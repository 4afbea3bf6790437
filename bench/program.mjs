// What every bench in JavaScript begins with: --help prints the comment at the top of its file, a wrong option is one
// sentence, and so is a package that is not built.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

export const ROOT = fileURLToPath(new URL('..', import.meta.url))

export function fail(message) {
  process.stderr.write(`${message}\n`)
  process.exit(2)
}

/** The comment that a source file begins with, without its marks. */
function leadingComment(source) {
  const lines = source.split('\n')
  const end = lines.findIndex((line) => !/^(\/\/|\/\*\*| \*)/.test(line))
  return lines
    .slice(0, end)
    .map((line) => line.replace(/^(\/\/|\/\*\*|( \*)+\/?) ?/, ''))
    .join('\n')
    .trim()
}

/**
 * Options of the command line. `defaults`: by name a number, a text, true or false; String or Number where there is none
 * (the option is then undefined). Ends the process after --help, and with 2 where an option is not known or no number.
 */
export function begin(meta, defaults) {
  const options = { help: { type: 'boolean', default: false } }
  for (const [name, value] of Object.entries(defaults)) {
    options[name] = typeof value === 'boolean' ? { type: 'boolean', default: value } : { type: 'string' }
  }
  let parsed
  try {
    parsed = parseArgs({ options, allowPositionals: true, allowNegative: true })
  } catch (error) {
    fail(`${error.message} (--help says which there are)`)
  }
  const { values, positionals } = parsed
  if (values.help) {
    process.stdout.write(`${leadingComment(readFileSync(fileURLToPath(meta.url), 'utf8'))}\n`)
    process.exit(0)
  }
  const chosen = {}
  for (const [name, value] of Object.entries(defaults)) {
    const word = values[name]
    const none = value === String || value === Number ? undefined : value
    const number = typeof value === 'number' || value === Number
    chosen[name] = word === undefined ? none : number ? Number(word) : word
    if (Number.isNaN(chosen[name])) fail(`expected a number for --${name} but received '${word}'`)
  }
  return { options: chosen, positionals }
}

/** A module of the built package. */
export async function dist(path) {
  try {
    return await import(new URL(`../dist/${path}`, import.meta.url))
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error
    fail(`the package is not built (${error.message.split('\n')[0]}): npm run build`)
  }
}

/** A published shape by its name, with fewer layers if it is to be small: what loadSynthetic() takes, and its sizes. */
export async function shapeOf(name, layers) {
  const { requireShape } = await dist('model/shapes.js')
  const { specOf } = await dist('checkpoint/spec.js')
  try {
    const shape = requireShape(name)
    const sized = { ...shape, layers: layers ?? shape.layers }
    return { ...specOf(sized), ...sized }
  } catch (error) {
    fail(`${error.message}: ${error.remedy}`)
  }
}
