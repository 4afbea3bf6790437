// Writes test/fuzz/corpus anew: `node test/fuzz/make_seeds.mjs`. The same bytes every time.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('corpus/', import.meta.url))
let state = 1n
/** A linear congruential generator's high bits. */
const random = (below) => {
  state = (state * 6364136223846793005n + 1442695040888963407n) % 2n ** 64n
  return Number((state >> 33n) % BigInt(below))
}
const randomBytes = (count) => Buffer.from(Array.from({ length: count }, () => random(256)))

function save(target, name, bytes) {
  mkdirSync(`${root}${target}`, { recursive: true })
  writeFileSync(`${root}${target}/${name}`, bytes)
}

const BYTES = { F16: 2, BF16: 2, F32: 4, I32: 4, I64: 8, U8: 1, F8_E4M3: 1 }

/** A safetensors file of [name, dtype, shape, bytes]; without bytes, random ones that are no infinite halfs. */
function safetensors(tensors, extra = {}) {
  const header = { ...extra }
  const parts = []
  let offset = 0
  for (const [name, dtype, shape, given] of tensors) {
    const size = shape.reduce((a, b) => a * b, BYTES[dtype])
    const bytes = given ?? randomBytes(size)
    if (!given && dtype.endsWith('16')) for (let i = 1; i < size; i += 2) bytes[i] &= 0xbb
    header[name] = { dtype, shape, data_offsets: [offset, offset + size] }
    offset += size
    parts.push(bytes)
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json, ...parts])
}

// ---- Headers: the byte that says how much larger the file is, then the file.
const first = (byte, bytes) => Buffer.concat([Buffer.from([byte]), bytes])
const header = (text, byte = 0) => {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return first(byte, Buffer.concat([length, Buffer.from(text)]))
}
rmSync(root, { recursive: true, force: true })
save('safetensors', 'empty', header('{}'))
save(
  'safetensors',
  'two',
  first(
    0,
    safetensors(
      [
        ['a', 'F16', [2, 3]],
        ['b.weight', 'I32', [1]],
      ],
      { __metadata__: { format: 'pt' } },
    ),
  ),
)
save(
  'safetensors',
  'types',
  first(
    0,
    safetensors([
      ['x', 'BF16', [1]],
      ['y', 'F32', []],
      ['z', 'I64', [0, 5]],
      ['w', 'U8', [3]],
    ]),
  ),
)
save(
  'safetensors',
  'large',
  header('{"a":{"dtype":"F32","shape":[1048576,1024],"data_offsets":[0,4294967296]}}', 128 + 32),
)
save('safetensors', 'gap', header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 129))
save(
  'safetensors',
  'escapes',
  header('{"\\u00e9\\ud83d\\ude00\\n":{"shape":[ 2 ],"dtype":"U8","data_offsets":[0,2]} }', 129),
)
save('safetensors', 'utf8', header('{"gewöhnlich":{"dtype":"F64","shape":[1,1],"data_offsets":[0,8]}}', 128 + 3))
save(
  'safetensors',
  'twice',
  header(
    '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    128,
  ),
)
save('safetensors', 'short', Buffer.from([0, 255, 255, 255, 255, 255, 255, 255, 127]))

// ---- Shards: the model that shards_fuzz.cc plans, in one to three files.
const words = (values) => Buffer.from(Int32Array.from(values).buffer)
function linear(format, name, n, k) {
  const groups = k / 16
  const groupOf = (order) => words(Array.from({ length: k }, (_, i) => Math.floor((order ? (i * 5) % k : i) / 16)))
  switch (format) {
    case 0:
      return [[`${name}.weight`, 'F16', [n, k]]]
    case 1:
      return [
        [`${name}.qweight`, 'I32', [k / 8, n]],
        [`${name}.qzeros`, 'I32', [groups, n / 8]],
        [`${name}.scales`, 'F16', [groups, n]],
        [`${name}.g_idx`, 'I32', [k], groupOf(name === 'd')],
      ]
    case 2:
      return [
        [`${name}.qweight`, 'I32', [k, n / 8]],
        [`${name}.qzeros`, 'I32', [groups, n / 8]],
        [`${name}.scales`, 'F16', [groups, n]],
      ]
    case 4:
      return [
        [`${name}.weight`, 'F8_E4M3', [n, k], randomBytes(n * k).map((byte) => byte & 0xbb)],
        [`${name}.weight_scale_inv`, 'BF16', [n / 16 < 1 ? 1 : n / 16, 1]],
      ]
    case 5:
      return [
        [`${name}.weight_packed`, 'U8', [n, k / 2]],
        [`${name}.weight_scale`, 'F8_E4M3', [n, groups], randomBytes(n * groups).map((byte) => byte & 0x3b)],
        [`${name}.weight_global_scale`, 'F32', [1], Buffer.from(Float32Array.of(2).buffer)],
      ]
    default:
      return [
        [`${name}.weight_packed`, 'I32', [n, k / 8]],
        [`${name}.weight_scale`, 'BF16', [n, groups]],
        [`${name}.weight_zero_point`, 'I32', [n / 8, groups]],
        [`${name}.weight_g_idx`, 'I32', [k], groupOf(name === 'd')],
        [`${name}.weight_shape`, 'I64', [2], Buffer.from(BigInt64Array.from([BigInt(n), BigInt(k)]).buffer)],
      ]
  }
}
const shapes = { q: [16, 16], k: [8, 16], v: [8, 16], o: [16, 16], g: [32, 16], u: [32, 16], d: [16, 32] }
for (let format = 0; format < 6; format++) {
  for (const shards of format === 1 ? [1, 2, 3] : [1 + (format % 3)]) {
    const tensors = [
      ['e', 'F16', [8, 16]],
      ...Object.entries(shapes).flatMap(([name, [n, k]]) => linear(format, name, n, k)),
      ...['an', 'fn', 'n'].map((name) => [name, 'F16', [16]]),
      ...['qn', 'kn'].map((name) => [name, 'F16', [8]]),
    ]
    const files = Array.from({ length: shards }, (_, s) => safetensors(tensors.filter((_, i) => i % shards === s)))
    const framed = files.flatMap((file) => [Buffer.from([file.length & 255, file.length >> 8]), file])
    save('shards', `format${format}-of-${shards}`, first(format, Buffer.concat(framed)))
  }
}

// ---- Linears: what linears_fuzz.cc makes of bytes. Zero bytes are sound tensors, so few of them are random.
for (let format = 0; format < 6; format++) {
  for (let seed = 0; seed < 6; seed++) {
    const bytes = randomBytes(200)
    // Widths, then for each linear its format, flags, bits, group; then its tensors, most of them undamaged.
    bytes[0] = 1 + random(12)
    bytes[1] = 1 + random(12)
    for (let i = 2; i < bytes.length; i++) if (random(3) > 0) bytes[i] = random(2) * 8 * random(8)
    bytes[2] = format
    bytes[3] = [1, 2, 5, 7, 0x85, 0x25][seed]
    bytes[4] = 0
    bytes[5] = seed
    save('linears', `format${format}-${seed}`, bytes)
  }
}

// ---- GGUF: the byte that says how much larger the file is, then the file.
const u32 = (value) => Buffer.from(Uint32Array.of(value).buffer)
const u64 = (value) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const string = (text) => Buffer.concat([u64(Buffer.byteLength(text)), Buffer.from(text)])
const list = (type, items) => Buffer.concat([u32(type), u64(items.length), ...items])
/** Pairs of [key, type, bytes], tensors of [name, shape, type, bytes]. */
function gguf(pairs, tensors, version = 3) {
  const parts = [Buffer.from('GGUF'), u32(version), u64(tensors.length), u64(pairs.length)]
  for (const [key, type, bytes] of pairs) parts.push(string(key), u32(type), bytes)
  const data = []
  let offset = 0
  for (const [name, shape, type, size] of tensors) {
    const padded = Math.ceil(size / 32) * 32
    parts.push(string(name), u32(shape.length), ...shape.map(u64), u32(type), u64(offset))
    data.push(randomBytes(size), Buffer.alloc(padded - size))
    offset += padded
  }
  const head = Buffer.concat(parts)
  return Buffer.concat([head, Buffer.alloc((32 - (head.length % 32)) % 32), ...data])
}
const architecture = ['general.architecture', 8, string('llama')]
save('gguf', 'empty', first(0, gguf([], [])))
save('gguf', 'version2', first(0, gguf([architecture], [['t', [2], 0, 8]], 2)))
save('gguf', 'version1', first(0, gguf([architecture], [], 1)))
save(
  'gguf',
  'values',
  first(
    0,
    gguf(
      [
        architecture,
        ...[0, 1, 7].map((type) => [`byte${type}`, type, Buffer.from([1])]),
        ...[2, 3].map((type) => [`short${type}`, type, Buffer.from([1, 0])]),
        ...[4, 5, 6].map((type) => [`word${type}`, type, u32(64)]),
        ...[10, 11, 12].map((type) => [`long${type}`, type, u64(64)]),
        ['tokens', 9, list(8, ['<s>', '', 'a\u00e9'].map(string))],
        ['scores', 9, list(6, [u32(0), u32(1)])],
        ['flags', 9, list(7, [Buffer.from([1]), Buffer.from([0])])],
        ['general.alignment', 4, u32(32)],
      ],
      [],
    ),
  ),
)
const packed = { 2: [32, 18], 3: [32, 20], 6: [32, 22], 7: [32, 24], 8: [32, 34], 10: [256, 84], 11: [256, 110] }
Object.assign(packed, { 12: [256, 144], 13: [256, 176], 14: [256, 210], 20: [32, 18], 23: [256, 136], 39: [32, 17] })
for (const [type, [elements, bytes]] of Object.entries(packed)) {
  save('gguf', `type${type}`, first(0, gguf([architecture], [['blk.0.w', [2 * elements, 2], Number(type), 4 * bytes]])))
}
save(
  'gguf',
  'mixed',
  first(
    0,
    gguf(
      [architecture],
      [
        ['a', [4], 0, 16],
        ['b', [2, 2, 1, 1], 1, 8],
        ['c', [256], 16, 66],
        ['d', [3], 24, 3],
        ['e', [0], 30, 0],
      ],
    ),
  ),
)
save('gguf', 'large', first(128 + 40, gguf([architecture], [['t', [2 ** 20, 2 ** 8], 12, 32]])))
save('gguf', 'nested', first(0, gguf([['a', 9, Buffer.concat([u32(9), u64(1), list(4, [u32(1)])])]], [])))
save('gguf', 'twice', first(0, gguf([architecture, architecture], [])))
