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

const BYTES = { F16: 2, BF16: 2, F32: 4, I32: 4, I64: 8, U8: 1 }

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
for (let format = 0; format < 4; format++) {
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
for (let format = 0; format < 4; format++) {
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
