/** The lab on the CPU twin: memory, streams, events, and the numbers of every operation against float64. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  describe as describeOperation,
  type Lab,
  type LabBuffer,
  openLab,
  operations,
  SLAB_LAYOUT,
  toNumbers,
  verify,
  type Work,
} from '../../lib/lab/index.ts'
import { floatValue } from '../reference/float.ts'
import { sizesOf } from './sizes.ts'

let lab: Lab
beforeAll(async () => {
  lab = await openLab({ device: 'cpu', threads: 2 })
})
afterAll(() => lab.close())

async function numbersOf(work: Work, name: string): Promise<Float64Array> {
  const { arguments: all } = describeOperation(work.operation, work.dimensions)
  const { type, bytes } = all.find((argument) => argument.name === name)!
  return toNumbers(type, await (work.buffers[name] as LabBuffer).read(0, bytes))
}

async function launched(operation: string, dimensions: Record<string, number>) {
  const work = await lab.prepare(operation, dimensions)
  const before: Record<string, Float64Array> = {}
  for (const name of Object.keys(work.buffers)) if (name !== 'slab') before[name] = await numbersOf(work, name)
  const stream = await lab.stream()
  await stream.launch(work)
  await stream.synchronize()
  return { work, before, of: (name: string) => numbersOf(work, name) }
}

/** Largest difference over the root of the mean square. */
function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0
  let size = 0
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs(found[i]! - expected[i]!))
    size += expected[i]! ** 2
  }
  return difference / Math.sqrt(size / expected.length)
}

/** The weights of a linear, or of one of experts, in float64, decoded by what SLAB_LAYOUT says alone. */
async function decode(work: Work, expert = 0): Promise<Float64Array> {
  const { operation, dimensions, buffers } = work
  const { matrix, arguments: all } = describeOperation(operation, dimensions)
  const { n, k, group, zeros, permuted } = dimensions as Record<string, number>
  const own = all[0]!.shape.at(-1)!
  const bytes = new DataView(await (buffers.slab as LabBuffer).read(expert * own, own))
  const q4 = operation.endsWith('q4')
  const { tileN, tileK, q4TileBytes, nibbleOf, elementOf, scaleOf } = SLAB_LAYOUT
  const weights = new Float64Array(n! * k!)
  const groupSlices = (group === 0 ? matrix!.kStored : (group ?? tileK)) / tileK
  const elementBytes = operation.endsWith('f32') ? 4 : 2
  for (let row = 0; row < n!; row++) {
    const block = matrix!.offset + Math.floor(row / tileN) * matrix!.rowBlockBytes
    const inBlock = row % tileN
    for (let stored = 0; stored < matrix!.kStored; stored++) {
      const feature = permuted ? bytes.getInt32(matrix!.permutationOffset + 4 * stored, true) : stored
      const slice = Math.floor(stored / tileK)
      const place = inBlock * tileK + (stored % tileK)
      let weight: number
      if (q4) {
        const header = block + Math.floor(slice / groupSlices) * matrix!.groupBytes
        const tile = header + matrix!.groupHeaderBytes + (slice % groupSlices) * q4TileBytes
        const nibble = nibbleOf[place]!
        const q = (bytes.getUint8(tile + (nibble >> 1)) >> (4 * (nibble & 1))) & 15
        const bits = bytes.getUint16(header + 2 * scaleOf[inBlock]!, true)
        const scale = floatValue(dimensions.scaleType ? 'BF16' : 'F16', bits)
        weight = scale * (q - (zeros ? bytes.getUint8(header + 2 * tileN + scaleOf[inBlock]!) : 8))
      } else {
        const at = block + (slice * tileN * tileK + elementOf[place]!) * elementBytes
        weight =
          elementBytes === 4
            ? bytes.getFloat32(at, true)
            : floatValue(operation.endsWith('bf16') ? 'BF16' : 'F16', bytes.getUint16(at, true))
      }
      if (feature >= 0 && feature < k!) weights[row * k! + feature] = weight
      else expect(weight).toBe(0)
    }
  }
  return weights
}

const silu = (x: number) => x / (1 + Math.exp(-x))

describe('linears', () => {
  test.each([
    ['gemv_q4', { rows: 3, n: 192, k: 576 }],
    ['gemv_q4', { rows: 2, n: 200, k: 192, group: 32, zeros: 1, scaleType: 1 }],
    ['gemm_q4', { rows: 9, n: 80, k: 200, group: 0, zeros: 1, permuted: 1, epilogue: 1 }],
    ['gemv_q4', { rows: 5, n: 96, k: 64, group: 16, epilogue: 2 }],
    ['gemv_f16', { rows: 2, n: 70, k: 90 }],
    ['gemm_bf16', { rows: 4, n: 64, k: 48, permuted: 1 }],
    ['gemv_f32', { rows: 1, n: 130, k: 33, epilogue: 1 }],
  ])('%s %j', async (operation, dimensions) => {
    const { work, before, of } = await launched(operation, dimensions)
    const { rows, n, k, epilogue } = work.dimensions as Record<string, number>
    const weights = await decode(work)
    const stride = Math.ceil(k! / 8) * 8
    const expected: number[] = []
    for (let row = 0; row < rows!; row++) {
      const products = Array.from({ length: n! }, (_, i) => {
        let sum = 0
        for (let j = 0; j < k!; j++) sum += weights[i * k! + j]! * before.x![row * stride + j]!
        return sum
      })
      if (epilogue === 2) {
        for (let i = 0; i < n! / 2; i++) {
          const gate = Math.floor(i / 8) * 16 + (i % 8)
          expected.push(silu(products[gate]!) * products[gate + 8]!)
        }
      } else {
        expected.push(...products.map((sum, i) => sum + (epilogue === 1 ? before.y![row * n! + i]! : 0)))
      }
    }
    expect(relativeError(await of('y'), expected)).toBeLessThan(2e-3)
  })
})

describe('what stands between linears', () => {
  test('rms_norm', async () => {
    const { before, of } = await launched('rms_norm', { rows: 3, width: 100 })
    const expected: number[] = []
    for (let row = 0; row < 3; row++) {
      const x = before.x!.slice(row * 100, row * 100 + 100)
      const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / 100 + 1e-5)
      expected.push(...x.map((v, i) => v * scale * before.weight![i]!))
    }
    const found = await of('y')
    const rows = [0, 1, 2].flatMap((row) => [...found.slice(row * 104, row * 104 + 100)])
    expect(relativeError(rows, expected)).toBeLessThan(2e-3)
  })

  test('norm_heads', async () => {
    const { before, of } = await launched('norm_heads', { rows: 2, heads: 2, kvHeads: 1, headDim: 16 })
    const expected = Float64Array.from(before.qkv!)
    for (let head = 0; head < 8; head++) {
      if (head % 4 === 3) continue // a value head
      const x = before.qkv!.slice(head * 16, head * 16 + 16)
      const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / 16 + 1e-5)
      for (let i = 0; i < 16; i++)
        expected[head * 16 + i] = x[i]! * scale * before.weight![(head % 4 < 2 ? 0 : 16) + i]!
    }
    expect(relativeError(await of('qkv'), expected)).toBeLessThan(1e-5)
  })

  test('add_bias', async () => {
    const { before, of } = await launched('add_bias', { rows: 2, n: 5 })
    expect(
      relativeError(
        await of('y'),
        Array.from(before.y!, (v, i) => v + before.bias![i % 5]!),
      ),
    ).toBeLessThan(1e-6)
  })

  test.each([0, 1])('silu_mul, interleaved: %i', async (interleaved) => {
    const { before, of } = await launched('silu_mul', { rows: 2, intermediate: 24, interleaved })
    const expected = Array.from({ length: 48 }, (_, at) => {
      const [row, i] = [Math.floor(at / 24) * 48, at % 24]
      const gate = interleaved ? Math.floor(i / 8) * 16 + (i % 8) : i
      return silu(before.x![row + gate]!) * before.x![row + (interleaved ? gate + 8 : 24 + i)]!
    })
    expect(relativeError(await of('y'), expected)).toBeLessThan(2e-3)
  })

  test.each([1, 2, 3])('embed, table of type %i', async (tableType) => {
    const { before, of } = await launched('embed', { rows: 4, vocab: 9, hidden: 20, tableType })
    const expected = [...before.tokens!].flatMap((token) => [...before.table!.slice(token * 20, token * 20 + 20)])
    expect([...(await of('y'))]).toEqual(expected)
  })

  test.each([0, 1])('route, sigmoid: %i, chooses by score and bias and weighs by score', async (sigmoid) => {
    const [rows, experts, topK] = [4, 12, 3]
    const { before, of } = await launched('route', { rows, experts, topK, sigmoid, scale: 2 })
    const routes = await of('routes')
    for (let row = 0; row < rows; row++) {
      const logits = [...before.logits!.slice(row * experts, (row + 1) * experts)]
      const all = logits.reduce((sum, logit) => sum + Math.exp(logit), 0)
      const scores = logits.map((logit) => (sigmoid ? 1 / (1 + Math.exp(-logit)) : Math.exp(logit) / all))
      const order = scores.map((_, expert) => expert)
      order.sort((a, b) => scores[b]! + before.bias![b]! - scores[a]! - before.bias![a]!)
      const best = order.slice(0, topK)
      expect([...routes.slice(row * 2 * topK, row * 2 * topK + topK)]).toEqual(best)
      const sum = best.reduce((total, expert) => total + scores[expert]!, 0)
      const weights = best.map((expert) => (2 * scores[expert]!) / sum)
      expect(relativeError(routes.slice(row * 2 * topK + topK, (row + 1) * 2 * topK), weights)).toBeLessThan(1e-5)
    }
  })

  test.each([
    ['experts_q4', { rows: 5, experts: 6, topK: 3, n: 96, k: 64, group: 32, zeros: 1, epilogue: 2 }],
    ['experts_bf16', { rows: 2, experts: 3, topK: 2, n: 70, k: 40, permuted: 1, places: 1 }],
  ])('%s %j', async (operation, dimensions) => {
    const { work, before, of } = await launched(operation, dimensions)
    const { rows, experts, topK, n, k, places, epilogue } = work.dimensions as Record<string, number>
    const weights: Float64Array[] = []
    for (let expert = 0; expert < experts!; expert++) weights.push(await decode(work, expert))
    const stride = Math.ceil(k! / 8) * 8
    const expected: number[] = []
    for (let place = 0; place < rows! * topK!; place++) {
      const row = Math.floor(place / topK!)
      const chosen = before.routes![row * 2 * topK! + (place % topK!)]!
      const x = before.x!.subarray((places ? place : row) * stride)
      const y = Array.from({ length: n! }, (_, i) => {
        return x.subarray(0, k!).reduce((sum, value, j) => sum + value * weights[chosen]![i * k! + j]!, 0)
      })
      if (epilogue !== 2) expected.push(...y)
      else for (let i = 0; i < n!; i++) if (i % 16 < 8) expected.push(silu(y[i]!) * y[i + 8]!)
    }
    expect(relativeError(await of('y'), expected)).toBeLessThan(2e-3)
  })

  test('experts chosen by a row are several', async () => {
    const { before } = await launched('experts_f16', { rows: 9, experts: 5, topK: 4, n: 64, k: 16 })
    for (let row = 0; row < 9; row++) {
      const chosen = before.routes!.slice(row * 8, row * 8 + 4)
      expect(new Set(chosen).size).toBe(4)
      for (const expert of chosen) expect([0, 1, 2, 3, 4]).toContain(expert)
    }
  })

  test('combine', async () => {
    const [rows, topK, width] = [3, 4, 10]
    const { before, of } = await launched('combine', { rows, topK, width })
    const expected = Array.from({ length: rows * width }, (_, at) => {
      const [row, feature] = [Math.floor(at / width), at % width]
      return Array.from({ length: topK }, (_, rank) => {
        return before.routes![row * 2 * topK + topK + rank]! * before.answers![(row * topK + rank) * width + feature]!
      }).reduce((a, b) => a + b)
    })
    expect(relativeError(await of('y'), expected)).toBeLessThan(1e-6)
  })

  test('sample takes the most likely token, and tells its probability', async () => {
    const { before, of } = await launched('sample', { rows: 3, vocab: 50, temperature: 0 })
    const [tokens, logprobs] = [await of('tokens'), await of('logprobs')]
    for (let row = 0; row < 3; row++) {
      const logits = [...before.logits!.slice(row * 50, row * 50 + 50)]
      const best = Math.max(...logits)
      expect(tokens[row]).toBe(logits.indexOf(best))
      const sum = logits.reduce((all, logit) => all + Math.exp(logit - best), 0)
      expect(logprobs[row]).toBeCloseTo(-Math.log(sum), 4)
    }
  })
})

describe('attention', () => {
  test.each([
    ['attention_decode', { rows: 3, context: 37, heads: 4, kvHeads: 2, headDim: 8 }],
    ['attention_decode', { rows: 1, context: 50, heads: 2, kvHeads: 2, headDim: 16, window: 20 }],
    ['attention_prefill', { rows: 20, context: 33, heads: 4, kvHeads: 1, headDim: 8 }],
    ['attention_decode', { rows: 3, context: 37, heads: 4, kvHeads: 2, headDim: 8, kvType: 1 }],
    ['attention_prefill', { rows: 20, context: 33, heads: 4, kvHeads: 1, headDim: 8, window: 20, kvType: 1 }],
  ])('%s %j', async (operation, dimensions) => {
    const { work, before, of } = await launched(operation, dimensions)
    const { rows, heads, kvHeads, headDim, context, window, kvType } = work.dimensions as Record<string, number>
    const half = headDim! / 2
    const width = (heads! + 2 * kvHeads!) * headDim!
    const decodes = operation === 'attention_decode'
    const blocksOf = Math.ceil(context! / 16)
    const after = await of('kv')
    const roped = (row: number, head: number) => {
      const at = row * width + head * headDim!
      const table = before.positions![row]! * headDim!
      return Array.from({ length: headDim! }, (_, i) => {
        const pair = i % half
        const [cos, sin] = [before.rope![table + pair]!, before.rope![table + half + pair]!]
        const [a, b] = [before.qkv![at + pair]!, before.qkv![at + pair + half]!]
        return i < half ? a * cos - b * sin : b * cos + a * sin
      })
    }
    // Keys and values as the cache has them afterwards: float16, or 8 bits in excess of 128 and a scale a position.
    const q8 = kvType === 1
    const scales = new DataView(Uint8Array.from(q8 ? after : []).buffer)
    const cached = (row: number, position: number, value: 0 | 1, head: number) => {
      const sequence = decodes ? row : 0
      const block = before.blockTables![sequence * blocksOf + Math.floor(position / 16)]!
      const part = (block * 2 + value) * kvHeads! + head
      const at = part * (16 * headDim! + (q8 ? 64 : 0)) + (position % 16) * headDim!
      const stored = after.slice(at, at + headDim!)
      if (!q8) return stored
      const scale = scales.getFloat32(part * (16 * headDim! + 64) + 16 * headDim! + (position % 16) * 4, true)
      return stored.map((q) => (q - 128) * scale)
    }
    const expected: number[] = []
    for (let row = 0; row < rows!; row++) {
      const position = before.positions![row]!
      expect(relativeError(cached(row, position, 0, 0), roped(row, heads!))).toBeLessThan(q8 ? 1e-2 : 2e-3)
      for (let head = 0; head < heads!; head++) {
        const q = roped(row, head)
        const kv = Math.floor(head / (heads! / kvHeads!))
        const first = window! > 0 ? Math.max(0, position - window! + 1) : 0
        const scores: number[] = []
        for (let p = first; p <= position; p++) {
          const key = cached(row, p, 0, kv)
          scores.push(q.reduce((sum, v, i) => sum + v * key[i]!, 0) / Math.sqrt(headDim!))
        }
        const most = Math.max(...scores)
        const shares = scores.map((score) => Math.exp(score - most))
        const sum = shares.reduce((a, b) => a + b, 0)
        const out = new Array<number>(headDim!).fill(0)
        shares.forEach((share, index) => {
          const value = cached(row, first + index, 1, kv)
          for (let i = 0; i < headDim!; i++) out[i]! += (share / sum) * value[i]!
        })
        expected.push(...out)
      }
    }
    expect(relativeError(await of('y'), expected)).toBeLessThan(5e-3)
  })
})

describe('memory, streams and events', () => {
  test('streams copy and fill in order, events order streams and tell time', async () => {
    const [a, b, host] = [await lab.buffer(1024), await lab.buffer(1024), await lab.buffer(1024, 'host')]
    const [first, second] = [await lab.stream(), await lab.stream()]
    const [begin, filled] = [await lab.event(), await lab.event()]
    await a.write(new Float32Array([1, 2, 3]), 256)
    await first.record(begin)
    await first.fill(b, 7)
    await first.record(filled)
    await second.wait(filled)
    await second.copy({ buffer: b, offset: 512 }, { buffer: a, offset: 256 }, 12)
    await second.copy(host, b)
    await second.synchronize()
    const bytes = await host.read()
    expect([...new Float32Array(bytes, 512, 3)]).toEqual([1, 2, 3])
    expect(new Uint8Array(bytes)[0]).toBe(7)
    expect(await begin.until(filled)).toBeGreaterThanOrEqual(0)
    for (const thing of [a, b, host, first, second, begin, filled]) await thing.release()
    await expect(a.read()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  test('times are of launches, one a repeat', async () => {
    const works = [
      await lab.prepare('gemv_q4', { n: 64, k: 64 }),
      await lab.prepare('gemv_q4', { n: 64, k: 64 }, { seed: 2 }),
    ]
    const times = await lab.time(works, { launches: 4, repeats: 3 })
    expect(times).toHaveLength(3)
    for (const us of times) expect(us).toBeGreaterThan(0)
  })

  test('what is too small, missing or foreign is refused, and the lab goes on', async () => {
    const work = await lab.prepare('add_bias', { rows: 2, n: 8 })
    const stream = await lab.stream()
    const small = await lab.buffer(8)
    const bad = (buffers: object) =>
      stream.launch({ ...work, buffers: { ...work.buffers, ...buffers } as Work['buffers'] })
    await expect(bad({ y: small })).rejects.toThrow(/expected 64 bytes from 0 on in a buffer, but it has 8/)
    await expect(bad({ y: undefined })).rejects.toThrow(/a buffer for y of add_bias but received nothing/)
    await expect(bad({ z: small })).rejects.toThrow(/one of bias, y for an argument of add_bias/)
    await expect(bad({ y: { buffer: small, offset: 4 } })).rejects.toThrow(/a multiple of 256/)
    await expect(small.write(new Uint8Array(9))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    for (const none of [undefined, null, 5, {}, { operation: 'add_bias' }, { ...work, kernel: 5 }]) {
      await expect(stream.launch(none as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
    for (const call of [() => stream.record(undefined as never), () => stream.wait({} as never)]) {
      await expect(call()).rejects.toThrow(/expected an event of this lab for event/)
    }
    await stream.launch(work)
    await stream.synchronize()
  })

  test("kernels of one's own are for GPUs", async () => {
    await expect(lab.loadKernel('gemv_q4', new Uint8Array(4))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('runs on a GPU'),
    })
    await expect(lab.loadKernel('sample', new Uint8Array(4))).rejects.toThrow(/one of gemv_q4/)
    await expect(lab.loadKernel('gemv_q4', '/nowhere')).rejects.toThrow(/ENOENT/)
  })

  test('a closed lab says so', async () => {
    const other = await openLab({ device: 'cpu', threads: 1 })
    const buffer = await other.buffer(16)
    await other.close()
    await expect(other.buffer(16)).rejects.toMatchObject({ code: 'MODEL_CLOSED' })
    await expect(buffer.read()).rejects.toMatchObject({ code: 'MODEL_CLOSED' })
    await expect(openLab({ device: 'gpu' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})

test.each(operations().map(({ name }) => name))('%s is the same on another number of threads', async (operation) => {
  await using other = await openLab({ device: 'cpu', threads: 3 })
  for (const dimensions of sizesOf(operation)) {
    const { ok, outputs } = await verify(other, operation, dimensions)
    expect(ok, `${JSON.stringify(dimensions)}: ${JSON.stringify(outputs)}`).toBe(true)
    for (const { relativeError } of outputs) expect(relativeError).toBe(0)
  }
})

test('verify compares with the twin, bit for bit where it is the twin itself', async () => {
  const { ok, outputs } = await verify(lab, 'gemv_q4', { rows: 2, n: 64, k: 64, epilogue: 1 })
  expect(ok).toBe(true)
  expect(outputs).toMatchObject([{ name: 'y', relativeError: 0, notNumbers: 0, overrun: 0 }])
})

test.each([{}, { scaleType: 1 }, { zeros: 1 }, { zeros: 1, scaleType: 1 }])(
  'random 4-bit weights make results of order one: %j',
  async (code) => {
    const { of } = await launched('gemv_q4', { rows: 4, n: 256, k: 512, group: 64, ...code })
    const y = await of('y')
    const size = Math.sqrt(y.reduce((sum, value) => sum + value * value, 0) / y.length)
    expect(size).toBeGreaterThan(0.3)
    expect(size).toBeLessThan(3)
  },
)
