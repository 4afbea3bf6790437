// What constraints take: compiling the schemas of a folder in MaskBench's form, and the mask of every token of their
// valid instances, with a tokenizer's vocabulary. Each file is { schema, tests: [{ data, valid }] }.
//
//   node bench/node/constraint.mjs [folder of schemas] [tokenizer: a folder or a .gguf]
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { addon } from '../../dist/binding.js'
import { compileTask } from '../../dist/constraint/compile.js'
import { loadTokenizer } from '../../dist/index.js'

if (process.argv.includes('--help')) {
  console.log('node bench/node/constraint.mjs [folder of schemas] [tokenizer: a folder or a .gguf]')
  process.exit(0)
}
const [folder = 'test/lib/constraint/schemas', tokenizerPath = 'models/demo'] = process.argv.slice(2)

const files = readdirSync(folder)
  .filter((name) => name.endsWith('.json'))
  .map((name) => ({ name, ...JSON.parse(readFileSync(join(folder, name), 'utf8')) }))
const tokenizer = await loadTokenizer(tokenizerPath)
let began = performance.now()
const vocabulary = await addon().createVocabulary(new Uint8Array(tokenizer.pieces.shared))
const vocabularyMs = performance.now() - began

const taskOf = (schema) => [{ body: { type: 'schema', schema, flexible: false } }]
// The compiling thread is warm after its first few; so is this one.
for (const { schema } of files.slice(0, 40)) {
  try {
    compileTask(taskOf(schema))
  } catch {}
}

// In the processor's time, since clocks count what others of the machine do; of all threads, the collector's too.
const processorMs = () => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}
const compileMs = []
const compileWallMs = []
const cold = []
const slowest = []
let [passed, refusedValid, acceptedInvalid, unsupported] = [0, 0, 0, 0]
for (const { name, schema, tests } of files) {
  let constraint
  began = performance.now()
  const processorBegan = processorMs()
  try {
    constraint = addon().createConstraint(compileTask(taskOf(schema)), vocabulary)
  } catch {
    unsupported++
    continue
  } finally {
    compileMs.push(processorMs() - processorBegan)
    compileWallMs.push(performance.now() - began)
  }
  let right = true
  for (const { data, valid } of tests) {
    const text = JSON.stringify(data)
    const accepted = constraint.accepts(Buffer.from(text))
    if (accepted !== valid) {
      right = false
      if (valid) refusedValid++
      else acceptedInvalid++
    }
    if (!valid) continue
    const tokens = await tokenizer.encode(text, { specialTokens: false })
    // States that other instances have made would be warm.
    const own = addon().createConstraint(compileTask(taskOf(schema)), vocabulary)
    const { taken, masks, us } = own.trace(tokens)
    for (let index = 0; index < taken; index++) {
      const token = tokens[index]
      if (!((masks[index][token >> 5] >> (token & 31)) & 1)) throw new Error(`${name}: a mask lacks token ${token}`)
    }
    cold.push(...us)
    slowest.push([Math.max(...us), name])
  }
  if (right) passed++
}

const sorted = (list) => Float64Array.from(list).sort()
const at = (list, share) => list[Math.min(list.length - 1, Math.floor(list.length * share))]
const compile = sorted(compileMs)
const masks = sorted(cold)
const average = masks.reduce((sum, value) => sum + value, 0) / masks.length
const row = (name, value, unit, limit = '') =>
  console.log(`${name.padEnd(28)} ${value.toFixed(1).padStart(10)} ${unit}${limit}`)
console.log(`${files.length} schemas, ${tokenizer.pieces.size} tokens`)
row('files that pass', (100 * passed) / files.length, '%', '   limit 82')
row('valid instances refused', refusedValid, '')
row('invalid ones accepted', acceptedInvalid, '')
row('schemas refused', unsupported, '')
row('vocabulary', vocabularyMs, 'ms')
row('compile p50', at(compile, 0.5), 'ms')
row('compile p99', at(compile, 0.99), 'ms', '  limit 150')
row('compile p99 by the clock', at(sorted(compileWallMs), 0.99), 'ms')
row('mask p50', at(masks, 0.5), 'us', '  limit 40')
row('mask p99', at(masks, 0.99), 'us', '  limit 500')
row('mask average', average, 'us')
row('mask max', masks.at(-1), 'us', '  limit 10000')
for (const [us, name] of slowest.sort((a, b) => b[0] - a[0]).slice(0, 3)) console.log(`  ${us.toFixed(0)} us: ${name}`)
tokenizer.close()
