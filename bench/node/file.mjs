// How fast a model is whose weights RAM has no room for, beside what the disk allows:
//
//   node bench/node/file.mjs --shape llama3-8b --share 0.5 --device cuda --folder /disk
//
// Random weights; `share` of the layers stay in a packed file in `folder`, which is made by the first run and left there
// unless --clean is given. The disk's rate is that of eight processes that read the file past the page cache, before and
// after; goal: 85 % of rate / bytes read a token. Needs `npm run build`. --layers and --tokens make it smaller.
import { execFile } from 'node:child_process'
import { rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { begin, dist, fail, shapeOf } from '../program.mjs'

const { options } = begin(import.meta, {
  shape: 'llama3-8b',
  layers: Number,
  share: 0.5,
  device: 'cpu',
  placement: 'auto',
  tokens: 24,
  folder: tmpdir(),
  clean: false,
})
const { share, device, placement, tokens } = options
if (!(share > 0 && share <= 1)) fail(`expected a number above 0 and up to 1 for --share but received '${share}'`)
const { loadSynthetic, planSynthetic } = await dist('model/synthetic.js')
const run = promisify(execFile)

const READERS = 8
const MiB = 2 ** 20

/** Bytes a second, all of the file at once. */
async function measureDisk(path) {
  const pieces = Math.ceil(statSync(path).size / (4 * MiB))
  const each = Math.ceil(pieces / READERS)
  const began = performance.now()
  const reads = Array.from({ length: READERS }, (_, index) => {
    const part = ['bs=4M', `skip=${index * each}`, `count=${each}`]
    return run('dd', [`if=${path}`, 'of=/dev/null', 'iflag=direct', ...part])
  })
  await Promise.all(reads).catch((error) => fail(`dd cannot read ${path} past the page cache: ${error.message}`))
  return statSync(path).size / ((performance.now() - began) / 1e3)
}

const shape = await shapeOf(options.shape, options.layers)
const base = { device, placement, contextLength: 256, maxSequences: 1, kvSwap: 0 }
const whole = planSynthetic(shape, base)
const layers = whole.units.reduce((sum, { kind, bytes }) => sum + (kind === 'head' ? 0 : bytes), 0)
const packed = join(options.folder, `millrace-bench-${options.shape}-${options.layers ?? 'all'}.packed`)
const largest = Math.max(...whole.units.map(({ kind, bytes }) => (kind === 'head' ? 0 : bytes)))
// What stays in RAM, and room for the window.
const beside = device === 'cpu' ? whole.kvBytes + whole.ringBytes : 0
const window = [3, 2, 1].find((units) => share * layers > units * largest) ?? 0
const ramBudget = Math.ceil(whole.hostBytes + beside - share * layers + window * largest)
const model = await loadSynthetic('file', shape, { ...base, ramBudget, packed })
const { fileBytes, fileBytesPerPass, windowBytes } = model.plan
if (fileBytes === 0) fail('all of the weights have room in that share of RAM: a larger --share leaves some in the file')
const prompt = Int32Array.from({ length: 8 }, (_, i) => (7919 * (i + 1)) % shape.vocab)
const ask = (maxTokens) => model.generate(prompt, { maxTokens, ignoreEos: true }).result
await ask(2)
const before = await measureDisk(packed)
const read = model.stats.streaming.fileBytes
const began = performance.now()
await ask(tokens)
const seconds = (performance.now() - began) / 1e3
const after = await measureDisk(packed)
const bytes = model.stats.streaming.fileBytes - read
await model.close()
if (options.clean) rmSync(packed)

const gb = (value) => (value / 1e9).toPrecision(3)
const rate = (before + after) / 2
const bound = rate / fileBytesPerPass
console.log(
  `${options.shape}: ${gb(fileBytes)} GB of ${gb(layers)} GB of layers in the file, a window of ${gb(windowBytes)} GB`,
)
console.log(`disk ${gb(before)} GB/s before, ${gb(after)} GB/s after`)
console.log(`read ${gb(bytes / seconds)} GB/s while it answered, ${gb(fileBytesPerPass)} GB a token`)
const speed = tokens / seconds
console.log(
  `${speed.toPrecision(3)} tok/s, ${((100 * speed) / bound).toFixed(0)} % of the ${bound.toPrecision(3)} that the disk allows`,
)
