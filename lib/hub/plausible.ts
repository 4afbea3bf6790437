/**
 * Of safetensors files whose data are not here: content for the few tensors that a plan reads, as files have it as a rule.
 * A plan then differs from that of the whole file by the table of an act-order at most, 4 bytes an input feature.
 */
import type { FileHandle } from 'node:fs/promises'
import { type ModuleSettings, moduleSettings, type Quantisation } from '../checkpoint/quantisation/index.ts'

interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

/** Zeros of symmetric weights of 4 and 8 bits; GPTQ's first version stores them less 1. */
const MIDDLE = { 4: 0x88888888, 8: 0x80808080 }
const FIRST_VERSION = { 4: 0x77777777, 8: 0x7f7f7f7f }
/** Of others: anything but these. */
const ASYMMETRIC = 0x66666666

/** Writes it into a file that has its header and its size; `head` is the header with its length before it. */
export async function writePlausible(file: FileHandle, head: Buffer, quantisation: Quantisation): Promise<void> {
  const entries = readEntries(head)
  const modules = [...new Set([...entries.keys()].map((name) => name.slice(0, name.lastIndexOf('.'))))]
  const settingsOf = moduleSettings(quantisation, modules)
  for (const [name, { data_offsets, dtype }] of entries) {
    const part = name.slice(name.lastIndexOf('.') + 1)
    const module = name.slice(0, name.lastIndexOf('.'))
    const of = (tensor: string) => entries.get(`${module}.${tensor}`)?.shape ?? []
    const [begin, end] = data_offsets
    const bytes = Buffer.alloc(Math.max(0, end - begin))
    if (part === 'qzeros' || part === 'weight_zero_point') {
      const settings = settingsOf(module)
      const first = settings.quantised && settings.of.method === 'gptq' && settings.of.format === 'gptq'
      const words = (first ? FIRST_VERSION : MIDDLE)[bitsOf(settings)]
      fill32(bytes, settings.quantised && settings.symmetric ? words : ASYMMETRIC)
    } else if (part === 'g_idx') groups(bytes, of('scales')[0] ?? 1)
    else if (part === 'weight_g_idx') groups(bytes, of('weight_scale')[1] ?? 1)
    else if (part === 'weight_shape') {
      const [rows = 0, words = 0] = of('weight_packed')
      const wide = dtype === 'I64'
      for (const [index, size] of [rows, words * (32 / bitsOf(settingsOf(module)))].entries()) {
        const at = index * (wide ? 8 : 4)
        if (at + (wide ? 8 : 4) > bytes.length) break
        if (wide) bytes.writeBigInt64LE(BigInt(size), at)
        else bytes.writeInt32LE(size, at)
      }
    } else continue
    await file.write(bytes, 0, bytes.length, head.length + begin)
  }
}

const bitsOf = (settings: ModuleSettings): 4 | 8 => (settings.quantised && settings.bits === 8 ? 8 : 4)

function readEntries(head: Buffer): Map<string, Entry> {
  try {
    const { __metadata__: _, ...tensors } = JSON.parse(head.toString('utf8', 8)) as Record<string, Entry>
    return new Map(
      Object.entries(tensors).filter(([, entry]) => Array.isArray(entry?.data_offsets) && Array.isArray(entry.shape)),
    )
  } catch {
    return new Map() // told by who reads the file
  }
}

function fill32(bytes: Buffer, word: number): void {
  for (let at = 0; at + 4 <= bytes.length; at += 4) bytes.writeUInt32LE(word, at)
}

/** Input features in their order, evenly in groups. */
function groups(bytes: Buffer, count: number): void {
  const features = bytes.length / 4
  const size = Math.max(1, Math.ceil(features / Math.max(1, count)))
  for (let at = 0; at < features; at++) bytes.writeInt32LE(Math.floor(at / size), at * 4)
}
