// llama.cpp's CPU path (node-llama-cpp) and ours in turn, in one process on the same cores: random weights in the same
// shape, prompts of the same length, no two computing at once. Prints tok/s, bytes a token and the share of the DRAM read
// bandwidth. The peer is no dependency: install it in a folder of its own.
//
//   mkdir /tmp/peer && npm install --prefix /tmp/peer --ignore-scripts node-llama-cpp
//   npm run build && node bench/peer/llama_cpp.mjs /tmp/peer [--shape tinyllama-1.1b] [--layers 22]
//       [--threads 2] [--prompt 128] [--tokens 64] [--runs 4] [--type q4_0]
//
// Their layers are Q4_0 (4.5 bits a weight), ours g128 symmetric (4.125); with --type q8_0, q4_k, q6_k or f16 both read the
// same file of that type. All heads are f16. The GGUF file is written to
// the peer's folder (680 MB for the 1.1B shape) and left there for the next time.
import { existsSync, mkdirSync } from 'node:fs'
import { open, rename } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { performance } from 'node:perf_hooks'
import { pathToFileURL } from 'node:url'
import { begin, dist, fail, shapeOf } from '../program.mjs'

const { options, positionals } = begin(import.meta, {
  shape: 'tinyllama-1.1b',
  layers: Number,
  threads: Number,
  prompt: 128,
  tokens: 64,
  runs: 4,
  type: 'q4_0',
})
const peer = resolve(positionals[0] ?? '.')
if (!existsSync(join(peer, 'node_modules', 'node-llama-cpp'))) {
  fail(`there is no node_modules/node-llama-cpp in ${peer}: --help says how to put it there`)
}
const { addon } = await dist('binding.js')
const { loadSynthetic } = await dist('model/synthetic.js')
const spec = await shapeOf(options.shape, options.layers)
const { prompt: promptTokens, tokens, runs } = options
const threads = options.threads ?? addon().probeCpu().cores

// ---- GGUF (version 3), as much of it as a llama of random weights needs.

const F32 = { id: 0, bytes: (count) => 4 * count }
const F16 = { id: 1, bytes: (count) => 2 * count }
/** Packed types: elements and bytes of a block, and where in it are float16 scales. */
const packed = (id, elements, size, ...scales) => ({
  id,
  size,
  scales,
  bytes: (count) => (count / elements) * size,
})
const TYPES = {
  q4_0: packed(2, 32, 18, 0),
  q8_0: packed(8, 32, 34, 0),
  q4_k: packed(12, 256, 144, 0, 2),
  q6_k: packed(14, 256, 210, 208),
  f16: F16,
}
const LAYERS = TYPES[options.type]
if (!LAYERS) fail(`expected --type of ${Object.keys(TYPES).join(', ')}`)

function tensors() {
  const { vocab, hidden, layers, heads, kvHeads, headDim, intermediate } = spec
  const list = [['token_embd.weight', F16, [hidden, vocab]]]
  for (let layer = 0; layer < layers; layer++) {
    const add = (name, type, shape) => list.push([`blk.${layer}.${name}.weight`, type, shape])
    add('attn_norm', F32, [hidden])
    add('attn_q', LAYERS, [hidden, heads * headDim])
    add('attn_k', LAYERS, [hidden, kvHeads * headDim])
    add('attn_v', LAYERS, [hidden, kvHeads * headDim])
    add('attn_output', LAYERS, [heads * headDim, hidden])
    add('ffn_norm', F32, [hidden])
    add('ffn_gate', LAYERS, [hidden, intermediate])
    add('ffn_up', LAYERS, [hidden, intermediate])
    add('ffn_down', LAYERS, [intermediate, hidden])
  }
  list.push(['output_norm.weight', F32, [hidden]], ['output.weight', F16, [hidden, vocab]])
  return list.map(([name, type, shape]) => ({ name, type, shape, bytes: type.bytes(shape.reduce((a, b) => a * b)) }))
}

const u32 = (value) => Buffer.from(Uint32Array.of(value).buffer)
const u64 = (value) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const text = (value) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])
const uint = (key, value) => Buffer.concat([text(key), u32(4), u32(value)])
const float = (key, value) => Buffer.concat([text(key), u32(6), Buffer.from(Float32Array.of(value).buffer)])
const string = (key, value) => Buffer.concat([text(key), u32(8), text(value)])
const array = (key, type, items) => Buffer.concat([text(key), u32(9), u32(type), u64(items.length), ...items])

function metadata() {
  const { vocab, hidden, layers, heads, kvHeads, headDim, intermediate, maxPosition, rmsEpsilon, rope } = spec
  const special = ['<unk>', '<s>', '</s>']
  const byte = (id) => `<0x${(id - 3).toString(16).toUpperCase().padStart(2, '0')}>`
  const words = Array.from({ length: vocab }, (_, id) => special[id] ?? (id < 259 ? byte(id) : `w${id}`))
  return [
    string('general.architecture', 'llama'),
    uint('llama.block_count', layers),
    uint('llama.context_length', maxPosition),
    uint('llama.embedding_length', hidden),
    uint('llama.feed_forward_length', intermediate),
    uint('llama.attention.head_count', heads),
    uint('llama.attention.head_count_kv', kvHeads),
    uint('llama.rope.dimension_count', headDim),
    uint('llama.vocab_size', vocab),
    float('llama.attention.layer_norm_rms_epsilon', rmsEpsilon),
    float('llama.rope.freq_base', rope.theta),
    string('tokenizer.ggml.model', 'llama'),
    array('tokenizer.ggml.tokens', 8, words.map(text)),
    array(
      'tokenizer.ggml.scores',
      6,
      words.map((_, id) => Buffer.from(Float32Array.of(-id).buffer)),
    ),
    array(
      'tokenizer.ggml.token_type',
      5,
      words.map((_, id) => u32(id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1)),
    ),
    uint('tokenizer.ggml.bos_token_id', 1),
    uint('tokenizer.ggml.eos_token_id', 2),
  ]
}

/** Random bytes of a type: 2^20 elements, then the same again. */
function filler(type) {
  const count = 2 ** 20
  if (type === F32) return Buffer.from(new Float32Array(count).fill(1).buffer)
  const out = Buffer.alloc(type.bytes(count))
  let state = 1
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 16
  }
  for (let at = 0; at < out.length; at += 2) {
    // float16 about 0.01 of either sign; a block's scales about 0.004, of K-quants 0.0001, which have scales on top.
    const scale = type.scales?.includes(at % type.size)
    const least = type.size > 100 ? 0x0400 : 0x1c00
    out.writeUInt16LE(scale ? least | (random() & 0x3ff) : type === F16 ? (random() & 0x83ff) | 0x2000 : random(), at)
  }
  return out
}

async function writeGguf(path) {
  const all = tensors()
  const parts = metadata()
  let offset = 0
  const infos = all.map(({ name, type, shape, bytes }) => {
    const info = Buffer.concat([text(name), u32(shape.length), ...shape.map(u64), u32(type.id), u64(offset)])
    offset += Math.ceil(bytes / 32) * 32
    return info
  })
  const header = Buffer.concat([Buffer.from('GGUF'), u32(3), u64(all.length), u64(parts.length), ...parts, ...infos])
  const file = await open(`${path}.part`, 'w')
  const fillers = new Map([F32, F16, LAYERS].map((type) => [type, filler(type)]))
  const begin = Math.ceil(header.length / 32) * 32
  await file.write(header, 0, header.length, 0)
  await file.truncate(begin + offset)
  const pieces = []
  let at = begin
  for (const { type, bytes } of all) {
    const source = fillers.get(type)
    for (let done = 0; done < bytes; done += source.length)
      pieces.push([source, Math.min(source.length, bytes - done), at + done])
    at += Math.ceil(bytes / 32) * 32
  }
  const queue = pieces.values()
  const write = async () => {
    for (const [source, length, position] of queue) await file.write(source, 0, length, position)
  }
  await Promise.all([write(), write(), write(), write()])
  await file.close()
  await rename(`${path}.part`, path)
}

// ---- The two, behind one function: from a prompt to (milliseconds to the first token, milliseconds to the last).

function fileOf() {
  const folder = join(peer, 'gguf')
  mkdirSync(folder, { recursive: true })
  return join(folder, `${options.shape}-${spec.layers}-${options.type}.gguf`)
}

async function theirs() {
  const path = fileOf()
  const { getLlama, LlamaLogLevel } = await import(
    pathToFileURL(createRequire(join(peer, 'package.json')).resolve('node-llama-cpp')).href
  )
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: threads })
  const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 })
  const context = await model.createContext({
    threads,
    contextSize: promptTokens + tokens + 16,
    batchSize: promptTokens,
  })
  const sequence = context.getSequence()
  const bytes = tensors().reduce((sum, tensor) => sum + (tensor.name === 'token_embd.weight' ? 0 : tensor.bytes), 0)
  return {
    name: 'llama.cpp',
    bytes,
    async run(prompt) {
      await sequence.clearHistory()
      const began = performance.now()
      let first = 0
      let count = 0
      for await (const _ of sequence.evaluate([...prompt], { temperature: 0 })) {
        if (count++ === 0) first = performance.now() - began
        if (count === tokens) break
      }
      if (count < tokens) throw new Error(`llama.cpp ended after ${count} tokens`)
      return { first, last: performance.now() - began }
    },
    close: () => llama.dispose(),
  }
}

async function ours() {
  const settings = { device: 'cpu', threads, contextLength: promptTokens + tokens, maxSequences: 1 }
  const model =
    options.type === 'q4_0'
      ? await loadSynthetic(options.shape, spec, settings, { head: 'f16' })
      : await (await dist('index.js')).load(fileOf(), { ...settings, cache: false })
  return {
    name: 'millrace',
    bytes: model.plan.hostBytes - model.plan.embeddingBytes,
    async run(prompt) {
      const { timings } = await model.generate(prompt, { maxTokens: tokens, ignoreEos: true }).result
      return { first: timings.firstTokenMs, last: timings.totalMs }
    },
    close: () => model.close(),
  }
}

if (!existsSync(fileOf())) await writeGguf(fileOf())
const both = [await ours(), await theirs()]
const figures = both.map(() => ({ prefill: [], decode: [] }))
const prompt = (run) =>
  Array.from({ length: promptTokens }, (_, i) => 3 + ((run * 7919 + i * 104729) % (spec.vocab - 3)))
for (let run = 0; run <= runs; run++) {
  for (const [index, side] of both.entries()) {
    const { first, last } = await side.run(prompt(run))
    if (run === 0) continue // pages in, caches warm
    figures[index].prefill.push((1000 * promptTokens) / first)
    figures[index].decode.push((1000 * (tokens - 1)) / (last - first))
  }
}
const dram = await addon().measureDramBandwidth(threads)
const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]
const spread = (list) =>
  `${median(list).toFixed(1)} (${Math.min(...list).toFixed(1)} to ${Math.max(...list).toFixed(1)})`
console.log(`${options.shape}, ${threads} threads, ${runs} runs in turn; DRAM read ${(dram / 1e9).toFixed(1)} GB/s`)
for (const [index, { name, bytes }] of both.entries()) {
  const { prefill, decode } = figures[index]
  const rate = median(decode) * bytes
  console.log(
    `${name.padEnd(10)} decode ${spread(decode)} tok/s, ${(bytes / 1e6).toFixed(0)} MB a token, ${(rate / 1e9).toFixed(1)} GB/s, ` +
      `${((100 * rate) / dram).toFixed(0)} %; prefill of ${promptTokens} ${spread(prefill)} tok/s`,
  )
}
for (const side of both) await side.close()
