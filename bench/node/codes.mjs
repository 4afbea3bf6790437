// Every code of weights: whether it is right (against the CPU twin) and how fast, at the sizes of an 8B model.
//
//   node bench/node/codes.mjs [--device cuda] [--rows 1] [--shape llama3-8b] [--only q4_k,q8] [--copies 512] [--check-only]
//
// A line a code: bits a weight of its matrices, the time of a layer's linears and of the head, GB/s and their share of
// the read peak measured in the same run, and the layer's rate over that of q4 in groups of 128. `copies`: MiB of
// weights that launches take turns at, so that no cache holds them. Ends with 1 where a code is wrong.
import { begin, dist, shapeOf } from '../program.mjs'

const { options } = begin(import.meta, {
  device: 'auto',
  rows: 1,
  shape: 'llama3-8b',
  only: String,
  copies: 512,
  'check-only': false,
})
const { rows } = options
const only = options.only?.split(',').map((name) => `gemv_${name}`)
const spec = await shapeOf(options.shape)
const { describe, openLab, operations, shapedOperations, verify } = await dist('lab/index.js')

/** Groups and zeros that kernels are made for, besides the default. */
const variants = (name) =>
  name === 'gemv_q4'
    ? [{ group: 128 }, { group: 32 }, { group: 128, zeros: 1 }]
    : name === 'gemv_q8'
      ? [{ group: 64 }, { group: 32 }, { group: 64, zeros: 1 }]
      : [{}]

async function check(lab, operation, extra) {
  const sizes = [
    { n: 256, k: 768, rows: 1 },
    { n: 200, k: 672, rows: 7, epilogue: 1 },
    { n: 320, k: 1056, rows: 20, epilogue: 2 },
    { n: 4096, k: 4096, rows: 1 },
    { n: 512, k: 4096, rows: 64 },
  ]
  for (const size of sizes) {
    for (const permuted of [0, 1]) {
      for (const name of [operation, operation.replace('gemv', 'gemm')]) {
        const { ok, outputs } = await verify(lab, name, { ...size, ...extra, permuted })
        if (!ok) return `WRONG: ${name} ${JSON.stringify({ ...size, ...extra, permuted })} ${JSON.stringify(outputs)}`
      }
    }
  }
  return 'right'
}

const lab = await openLab({ device: options.device })
const peak = await lab.readBandwidth()
const results = []
for (const { name } of operations().filter(({ name }) => name.startsWith('gemv_'))) {
  if (only && !only.includes(name)) continue
  for (const extra of variants(name)) {
    const verdict = await check(lab, name, extra)
    const code = [name.slice(5), ...Object.entries(extra).map(([key, value]) => `${key} ${value}`)].join(' ')
    if (options['check-only']) {
      results.push({ code, verdict })
      process.stdout.write(`${code.padEnd(20)} ${verdict}\n`)
      continue
    }
    const parts = {}
    let weights = 0
    let bytes = 0
    for (const { part, dimensions } of shapedOperations(name, spec, { rows })) {
      const all = { ...dimensions, ...extra }
      const problem = describe(name, all)
      const copies = Math.min(64, Math.ceil((options.copies * 2 ** 20) / problem.weightBytes))
      const works = []
      for (let seed = 1; seed <= copies; seed++) works.push(await lab.prepare(name, all, { seed: (seed % 4) + 1 }))
      const times = await lab.time(works, { launches: Math.max(40, copies) })
      for (const work of works) for (const buffer of Object.values(work.buffers)) await buffer.release()
      parts[part] = { us: times.sort((a, b) => a - b)[times.length >> 1], bytes: problem.weightBytes }
      weights += dimensions.n * dimensions.k
      bytes += problem.weightBytes
    }
    const layer = ['qkv', 'o', 'gate_up', 'down'].map((part) => parts[part])
    const layerUs = layer.reduce((sum, { us }) => sum + us, 0)
    const layerBytes = layer.reduce((sum, part) => sum + part.bytes, 0)
    const head = parts.head
    const layerRate = layerBytes / layerUs / 1e3
    const headRate = head.bytes / head.us / 1e3
    results.push({ code, verdict, layerRate })
    const reference = results.find((result) => result.code === 'q4 group 128')?.layerRate
    const percent = (rate) => `${((100 * rate * 1e9) / peak).toFixed(0)} %`.padStart(5)
    const figures = [
      `${((8 * bytes) / weights).toFixed(2).padStart(5)} bits`,
      `layer ${layerUs.toFixed(1).padStart(7)} us ${layerRate.toFixed(0).padStart(5)} GB/s ${percent(layerRate)}`,
      `head ${head.us.toFixed(1).padStart(7)} us ${headRate.toFixed(0).padStart(5)} GB/s ${percent(headRate)}`,
      `over q4 g128 ${reference ? (layerRate / reference).toFixed(2) : '-'}`,
    ]
    process.stdout.write(`${code.padEnd(20)} ${figures.join(' | ')} | ${verdict}\n`)
  }
}
await lab.close()
process.stdout.write(`read peak ${(peak / 1e9).toFixed(0)} GB/s on ${lab.device}, ${rows} row(s), ${options.shape}\n`)
process.exitCode = results.every(({ verdict }) => verdict === 'right') ? 0 : 1
