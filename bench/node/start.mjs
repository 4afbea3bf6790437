// From the start of a process to its first token, the packed file in the page cache.
//
//   node bench/node/start.mjs [--shape llama3-8b] [--layers 32] [--folder F] [--cache C] [--device cuda]
//       [--runs 3] [--no-repack]
//
// Writes a GPTQ checkpoint of random weights in the shape to the folder (unless it is there; 5.7 GB for 8B), loads it
// once, which leaves the packed file in C, and then starts the command anew for each figure. `import`, `load` and
// `first` are milliseconds of the process's own clock until the package was imported, the model loaded, the first token
// there; `device`, `weights` and `placed` are the native load's own, from its beginning.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, copyFileSync, existsSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { begin, ROOT, shapeOf } from '../program.mjs'

const { options } = begin(import.meta, {
  shape: 'llama3-8b',
  layers: Number,
  folder: String,
  cache: String,
  device: 'auto',
  runs: 3,
  repack: true,
})
const spec = await shapeOf(options.shape, options.layers)
const folder = options.folder ?? join(tmpdir(), `millrace-start-${options.shape}-${spec.layers}`)
const cache = options.cache ?? `${folder}.cache`

const CHUNK = 32 << 20
/** Input features that share a scale: as many as divide every width. */
const GROUP = [128, 64, 32].find((size) => [spec.hidden, spec.intermediate].every((width) => width % size === 0))

/** Bytes of a pattern over and over, or of `words` drawn once. */
function filled(make) {
  const buffer = new Uint32Array(CHUNK / 4)
  for (let i = 0; i < buffer.length; i++) buffer[i] = make()
  return new Uint8Array(buffer.buffer)
}
let state = 1
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return (state ^ (state >>> 15)) >>> 0
}

function writeCheckpoint() {
  mkdirSync(folder, { recursive: true })
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(join(ROOT, 'models', 'demo', file), join(folder, file))
  }
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: spec.vocab,
    hidden_size: spec.hidden,
    intermediate_size: spec.intermediate,
    num_hidden_layers: spec.layers,
    num_attention_heads: spec.heads,
    num_key_value_heads: spec.kvHeads,
    hidden_act: 'silu',
    max_position_embeddings: spec.maxPosition,
    rms_norm_eps: spec.rmsEpsilon,
    rope_theta: spec.rope.theta,
    tie_word_embeddings: false,
    torch_dtype: 'float16',
    quantization_config: { quant_method: 'gptq', bits: 4, group_size: GROUP, sym: true, desc_act: false },
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  const nibbles = filled(random)
  const halves = filled(() => (random() & 0x83ff83ff) | 0x20002000) // about +- 0.01
  const zeros = filled(() => 0x77777777)
  const scales = filled(() => 0x191f191f) // 0.0025
  const ones = filled(() => 0x3c003c00)
  const tensors = []
  const add = (name, dtype, shape, data) => {
    const bytes = shape.reduce((a, b) => a * b) * (dtype === 'F16' ? 2 : 4)
    tensors.push({ name, dtype, shape, bytes, data })
  }
  const linear = (name, n, k) => {
    add(`${name}.qweight`, 'I32', [k / 8, n], nibbles)
    add(`${name}.qzeros`, 'I32', [k / GROUP, n / 8], zeros)
    add(`${name}.scales`, 'F16', [k / GROUP, n], scales)
  }
  add('model.embed_tokens.weight', 'F16', [spec.vocab, spec.hidden], halves)
  for (let l = 0; l < spec.layers; l++) {
    const layer = `model.layers.${l}`
    const { hidden, intermediate } = spec
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) {
      add(`${layer}.${norm}.weight`, 'F16', [hidden], ones)
    }
    linear(`${layer}.self_attn.q_proj`, spec.heads * spec.headDim, hidden)
    linear(`${layer}.self_attn.k_proj`, spec.kvHeads * spec.headDim, hidden)
    linear(`${layer}.self_attn.v_proj`, spec.kvHeads * spec.headDim, hidden)
    linear(`${layer}.self_attn.o_proj`, hidden, spec.heads * spec.headDim)
    linear(`${layer}.mlp.gate_proj`, intermediate, hidden)
    linear(`${layer}.mlp.up_proj`, intermediate, hidden)
    linear(`${layer}.mlp.down_proj`, hidden, intermediate)
  }
  add('model.norm.weight', 'F16', [spec.hidden], ones)
  add('lm_head.weight', 'F16', [spec.vocab, spec.hidden], halves)
  let offset = 0
  const header = {}
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes] }
    offset += bytes
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const file = openSync(join(folder, 'model.safetensors'), 'w')
  writeSync(file, length)
  writeSync(file, json)
  for (const { bytes, data } of tensors) {
    for (let at = 0; at < bytes; ) at += writeSync(file, data, 0, Math.min(CHUNK, bytes - at))
  }
  closeSync(file)
  return offset
}

const load = { device: options.device, contextLength: 512 }
const child = (settings) => `
const imported = performance.now()
const { load } = await import(${JSON.stringify(pathToFileURL(join(ROOT, 'dist', 'index.js')).href)})
const ready = performance.now()
let native
const none = () => {}
const logger = { debug: none, info: (fields, text) => { if (text === 'model loaded') native = fields.native }, warn: console.error, error: none }
const model = await load(${JSON.stringify(folder)}, { ...${JSON.stringify(settings)}, logger })
const loaded = performance.now()
const { tokens: answer, timings } = await model.generate([1, 2, 3, 4, 5, 6, 7, 8], { maxTokens: 8, ignoreEos: true }).result
const first = loaded + timings.firstTokenMs
const { memory } = model
console.log(JSON.stringify({ node: imported, import: ready, load: loaded, first, device: native?.deviceMs, weights: native?.weightsMs,
  placed: native?.totalMs, cache: model.cache?.state, pinned: memory.pinnedBytes, answer: answer.join(' ') }))
while (model.cache?.state === 'writing') await new Promise((resolve) => setTimeout(resolve, 50))
console.log(JSON.stringify({ kept: performance.now(), state: model.cache?.state, reason: model.cache?.reason }))
process.exit(0)`

let expected // of every run: read, repacked, resident, streamed

function run(settings) {
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ['--input-type=module', '--eval', child({ ...load, cache, ...settings })],
    { encoding: 'utf8' },
  )
  if (status !== 0) throw new Error(stderr)
  if (stderr) process.stderr.write(stderr)
  const [{ answer, ...measured }, kept] = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  expected ??= answer
  if (answer !== expected) throw new Error(`the answer is ${answer}, before it was ${expected}`)
  return [measured, kept]
}

/** Until the command has written the first text. */
async function command(placement) {
  const began = performance.now()
  const main = join(ROOT, 'dist', 'cli', 'main.js')
  const args = ['generate', folder, 'Once upon a time', '--max-tokens', '1', '--device', options.device]
  const process_ = spawn(
    process.execPath,
    [main, ...args, '--context', '512', '--cache', cache, '--placement', placement, '--quiet'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  let first
  process_.stdout.once('data', () => {
    first = performance.now() - began
  })
  const [code] = await once(process_, 'close') // so that the next one is alone
  if (first === undefined || code !== 0) throw new Error(`the command ended with ${code}`)
  return first
}

const figures = (measured) =>
  Object.entries(measured)
    .map(([name, value]) => `${name} ${typeof value === 'number' ? Math.round(value) : value}`)
    .join(', ')

if (!existsSync(join(folder, 'model.safetensors'))) {
  const began = performance.now()
  const bytes = writeCheckpoint()
  console.log(`wrote ${(bytes / 1e9).toFixed(2)} GB in ${((performance.now() - began) / 1e3).toFixed(1)} s`)
}
if (options.repack) {
  rmSync(cache, { recursive: true, force: true })
  const [measured, kept] = run({ placement: 'resident' })
  console.log(
    `repacked: ${figures(measured)}; packed file ${kept.state} after ${Math.round(kept.kept)} ms ${kept.reason ?? ''}`,
  )
}
for (const placement of ['resident', 'streamed']) {
  for (let i = 0; i < options.runs; i++) console.log(`${placement}: ${figures(run({ placement })[0])}`)
  for (let i = 0; i < options.runs; i++)
    console.log(`${placement}, command: first text after ${Math.round(await command(placement))} ms`)
}
