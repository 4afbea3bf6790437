// What `weights: 'q8'` and 'q4' of load() cost: perplexity of a text under a model of floats, as it is and made 8 and 4
// bits. A GPTQ folder of 4 bits is dequantised first, exactly, into a temporary folder of float32.
//
//   npm run build && node bench/node/weights.mjs /path/to/folder /path/to/text.txt [--window 512] [--tokens 6000] [--device cpu] [--threads 2]
//
// The text is cut into windows that score so many tokens each and overlap by one, without the first token that the
// tokenizer would add. A line a form: model.weightError, perplexity, and how far it is from the floats'.
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { begin, dist, fail } from '../program.mjs'

const { options, positionals } = begin(import.meta, {
  window: 512,
  tokens: 6000,
  device: 'cpu',
  threads: Number,
})
const [folder, file] = positionals.map((path) => resolve(path))
if (!folder || !file) fail('expected a folder and a text: --help says how')
const { load } = await dist('index.js')
const readJson = (name) => JSON.parse(readFileSync(join(folder, name), 'utf8'))

function readTensors() {
  const index = join(folder, 'model.safetensors.index.json')
  const files = existsSync(index)
    ? [...new Set(Object.values(JSON.parse(readFileSync(index, 'utf8')).weight_map))]
    : ['model.safetensors']
  const tensors = new Map()
  for (const name of files) {
    const bytes = readFileSync(join(folder, name))
    const start = 8 + Number(bytes.readBigUInt64LE(0))
    const { __metadata__: _, ...entries } = JSON.parse(bytes.toString('utf8', 8, start))
    for (const [tensor, { dtype, shape, data_offsets: at }] of Object.entries(entries)) {
      tensors.set(tensor, { dtype, shape, data: bytes.subarray(start + at[0], start + at[1]) })
    }
  }
  return tensors
}

function halfValue(bits) {
  const exponent = (bits >> 10) & 31
  const mantissa = bits & 1023
  const size = exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25)
  return bits & 0x8000 ? -size : size
}

/** W [n, k] of GPTQ's qweight, qzeros, scales and g_idx. */
function dequantise(tensors, module, settings) {
  const part = (name) => tensors.get(`${module}.${name}`)
  const [rows, n] = part('qweight').shape
  const k = rows * 8
  const word = (name, at) => part(name).data.readUInt32LE(4 * at)
  const zeroOffset = (settings.checkpoint_format ?? 'gptq') === 'gptq' ? 0x11111111 : 0
  const size = settings.group_size > 0 ? settings.group_size : k
  const groups = part('scales').shape[0]
  const scale = new Float64Array(groups * n)
  const zero = new Uint8Array(groups * n)
  for (let at = 0; at < scale.length; at++) {
    scale[at] = halfValue(part('scales').data.readUInt16LE(2 * at))
    zero[at] = (((word('qzeros', at >> 3) + zeroOffset) >>> 0) >>> (4 * (at % 8))) & 15
  }
  const weights = new Float32Array(n * k)
  for (let row = 0; row < k; row++) {
    const group = part('g_idx') ? part('g_idx').data.readInt32LE(4 * row) : Math.floor(row / size)
    for (let column = 0; column < n; column++) {
      const level = (word('qweight', (row >> 3) * n + column) >>> (4 * (row % 8))) & 15
      weights[column * k + row] = scale[group * n + column] * (level - zero[group * n + column])
    }
  }
  return { dtype: 'F32', shape: [n, k], data: Buffer.from(weights.buffer) }
}

function writeFloats(to) {
  const { quantization_config: settings, ...config } = readJson('config.json')
  if (settings.quant_method !== 'gptq' || settings.bits !== 4) fail('expected floats, or GPTQ of 4 bits')
  const tensors = readTensors()
  const parts = /^(.*)\.(qweight|qzeros|scales|g_idx)$/
  const written = [...tensors].flatMap(([name, tensor]) => {
    const [, module, part] = parts.exec(name) ?? []
    if (part === undefined) return [[name, tensor]]
    return part === 'qweight' ? [[`${module}.weight`, dequantise(tensors, module, settings)]] : []
  })
  const header = {}
  let end = 0
  for (const [name, { dtype, shape, data }] of written) {
    header[name] = { dtype, shape, data_offsets: [end, end + data.length] }
    end += data.length
  }
  const text = Buffer.from(JSON.stringify(header))
  const head = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, ' ')
  head.writeBigUInt64LE(BigInt(head.length - 8))
  text.copy(head, 8)
  writeFileSync(join(to, 'model.safetensors'), Buffer.concat([head, ...written.map(([, { data }]) => data)]))
  writeFileSync(join(to, 'config.json'), JSON.stringify(config))
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) copyFileSync(join(folder, name), join(to, name))
}

async function measure(path, weights) {
  const { window, device, threads } = options
  const model = await load(path, {
    device,
    weights,
    cache: false,
    contextLength: window + 1,
    maxSequences: 1,
    ...(threads === undefined ? {} : { threads }),
  })
  try {
    const all = await model.tokenizer.encode(readFileSync(file, 'utf8'), { specialTokens: false })
    const ids = all.slice(0, options.tokens)
    let [sum, count] = [0, 0]
    for (let from = 0; from + 1 < ids.length; from += window) {
      const { logprobs } = await model.score(ids.slice(from, from + window + 1))
      for (const one of logprobs) sum += one
      count += logprobs.length
    }
    return { perplexity: Math.exp(-sum / count), count, error: model.weightError?.weights }
  } finally {
    await model.close()
  }
}

const quantised = readJson('config.json').quantization_config !== undefined
const path = quantised ? mkdtempSync(join(tmpdir(), 'millrace-floats-')) : folder
try {
  if (quantised) writeFloats(path)
  let floats
  for (const weights of ['stored', 'q8', 'q4']) {
    const { perplexity, count, error } = await measure(path, weights)
    floats ??= perplexity
    const off = (100 * (perplexity / floats - 1)).toFixed(3)
    const said = error === undefined ? '' : `error ${(100 * error).toFixed(2)} % `
    process.stdout.write(`${weights.padEnd(7)} ${said}perplexity ${perplexity.toFixed(4)} (${off} %) ${count} tokens\n`)
  }
} finally {
  if (quantised) rmSync(path, { recursive: true })
}
