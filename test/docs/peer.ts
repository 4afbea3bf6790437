/** A node-llama-cpp that reads the GGUF file it is given, to the last tensor, and answers with any tokens. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const SOURCE = `
import { openSync, readSync, statSync } from 'node:fs'

export const LlamaLogLevel = { error: 'error' }

/** Names and kinds of the tensors; throws where the file's size is not what they take. */
function readGguf(path) {
  const file = openSync(path, 'r')
  const bytes = Buffer.alloc(Math.min(statSync(path).size, 1 << 24))
  readSync(file, bytes, 0, bytes.length, 0)
  let at = 0
  const take = (count) => bytes.subarray(at, (at += count))
  const u32 = () => take(4).readUInt32LE()
  const u64 = () => Number(take(8).readBigUInt64LE())
  const text = () => take(u64()).toString()
  const value = (type) => {
    if (type === 4 || type === 5) return u32()
    if (type === 6) return take(4).readFloatLE()
    if (type === 8) return text()
    if (type !== 9) throw new Error('a value of type ' + type)
    const of = u32()
    return Array.from({ length: u64() }, () => value(of))
  }
  if (take(4).toString() !== 'GGUF' || u32() !== 3) throw new Error('no GGUF of version 3')
  const [tensors, entries] = [u64(), u64()]
  const metadata = {}
  for (let i = 0; i < entries; i++) {
    const key = text()
    metadata[key] = value(u32())
  }
  let end = 0
  for (let i = 0; i < tensors; i++) {
    text()
    const count = Array.from({ length: u32() }, u64).reduce((a, b) => a * b)
    const size = { 0: 4 * count, 1: 2 * count, 2: (count / 32) * 18, 8: (count / 32) * 34 }[u32()]
    end = Math.max(end, u64() + Math.ceil(size / 32) * 32)
  }
  const expected = Math.ceil(at / 32) * 32 + end
  if (statSync(path).size !== expected) throw new Error('expected ' + expected + ' bytes')
  if (metadata['tokenizer.ggml.tokens'].length !== metadata['llama.vocab_size']) throw new Error('tokens are missing')
}

export async function getLlama() {
  return {
    async loadModel({ modelPath }) {
      readGguf(modelPath)
      return {
        async createContext() {
          return {
            getSequence: () => ({
              async clearHistory() {},
              async *evaluate(prompt) {
                for (let token = prompt.length; ; token++) yield token
              },
            }),
          }
        },
      }
    },
    async dispose() {},
  }
}
`

export function writePeer(folder: string): void {
  const place = join(folder, 'node_modules', 'node-llama-cpp')
  mkdirSync(place, { recursive: true })
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n')
  writeFileSync(
    join(place, 'package.json'),
    '{ "name": "node-llama-cpp", "type": "module", "exports": "./index.js" }\n',
  )
  writeFileSync(join(place, 'index.js'), SOURCE)
}
