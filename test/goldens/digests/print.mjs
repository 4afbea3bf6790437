// Prints, as JSON, a digest of all logits of each model folder or file among its arguments, computed on the CPU. The
// kernels are those that MILLRACE_CPU_KERNELS names. Arguments: the package's entry, then pairs of a path and its tokens
// as JSON.
import { createHash } from 'node:crypto'

const [entry, ...rest] = process.argv.slice(2)
const { load } = await import(entry)
const digests = []
for (let i = 0; i < rest.length; i += 2) {
  const tokens = JSON.parse(rest[i + 1])
  const model = await load(rest[i], { device: 'cpu', placement: 'resident', contextLength: tokens.length + 1, cache: false })
  const { logits } = await model.score(tokens, { logits: true })
  await model.close()
  const bytes = Buffer.from(logits.buffer, logits.byteOffset, logits.byteLength)
  digests.push(createHash('sha256').update(bytes).digest('hex').slice(0, 16))
}
console.log(JSON.stringify(digests))
