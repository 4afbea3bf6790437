// How fast a model is whose weights RAM has no room for, beside what the disk allows:
//
//   node bench/node/file.mjs --shape llama3-8b --share 0.5 --device cuda --folder /disk
//   cpu_disk_bench --file /disk/file
//
// Random weights; `share` of the layers stay in a packed file in `folder`, which is made by the first run and left there
// unless --clean is given. The disk's rate is that of cpu_disk_bench, before and after: it reads past the page cache, again
// and again as passes do, as many bytes of the file as a token takes, so that what lies below, a host's cache for instance,
// serves both alike. Goal: 85 % of rate / bytes read a token. Needs `npm run build`, and for the rate
// `node scripts/build-native.mjs --all --bench`. --layers and --tokens make it smaller.
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { begin, dist, fail, ROOT, shapeOf } from '../program.mjs'

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

const DISK_BENCH = join(ROOT, '.cmake', 'Release', 'bench', 'cpu_disk_bench')

/** Bytes a second; undefined where the program is not built. */
async function measureDisk(path, bytes) {
  if (!existsSync(DISK_BENCH)) return undefined
  const asked = run(DISK_BENCH, ['--file', path, '--bytes', String(bytes)])
  const { stdout } = await asked.catch(({ stderr }) => fail(stderr.trim()))
  return Number(/([\d.]+) GB\/s/.exec(stdout)[1]) * 1e9
}

const shape = await shapeOf(options.shape, options.layers)
mkdirSync(options.folder, { recursive: true })
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
if (fileBytesPerPass === 0)
  fail('no pass reads the file, since the layers in it have room on the GPU: --placement streamed')
const prompt = Int32Array.from({ length: 8 }, (_, i) => (7919 * (i + 1)) % shape.vocab)
const ask = (maxTokens) => model.generate(prompt, { maxTokens, ignoreEos: true }).result
await ask(2)
const before = await measureDisk(packed, fileBytesPerPass)
const read = model.stats.streaming.fileBytes
const began = performance.now()
await ask(tokens)
const seconds = (performance.now() - began) / 1e3
const after = await measureDisk(packed, fileBytesPerPass)
const bytes = model.stats.streaming.fileBytes - read
await model.close()
if (options.clean) rmSync(packed)

const gb = (value) => (value / 1e9).toPrecision(3)
console.log(
  `${options.shape}: ${gb(fileBytes)} GB of ${gb(layers)} GB of layers in the file, a window of ${gb(windowBytes)} GB`,
)
console.log(`read ${gb(bytes / seconds)} GB/s while it answered, ${gb(fileBytesPerPass)} GB a token`)
const speed = tokens / seconds
if (before === undefined) {
  console.log(`${speed.toPrecision(3)} tok/s; the disk's rate: build cpu_disk_bench (--help)`)
} else {
  const bound = (before + after) / 2 / fileBytesPerPass
  console.log(`disk ${gb(before)} GB/s before, ${gb(after)} GB/s after`)
  console.log(
    `${speed.toPrecision(3)} tok/s, ${((100 * speed) / bound).toFixed(0)} % of the ${bound.toPrecision(3)} that the disk allows`,
  )
}
