/**
 * Run by portable.test.ts in a process of its own, since a device's facts are asked once: what one GPU computes by the
 * plans of another (MILLRACE_TEST_SHARED_BYTES, MILLRACE_TEST_CAPABILITY). Prints one JSON object. With `twin FILE` it
 * writes there, once for all GPUs, what the CPU says of the model; with `FILE` it compares with that.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { load } from '../../dist/index.js'
import { openLab, verify } from '../../dist/lab/index.js'

const demo = new URL('../../models/demo', import.meta.url).pathname
const ROWS = [1, 8, 9, 16, 17, 33, 64]

/** Operations against the CPU twin: [operation, dimensions]. */
function* operations() {
  for (const rows of [1, 7, ...ROWS, 200]) {
    yield ['gemv_q4', { rows, n: 192, k: 4096, group: 32, zeros: 1 }]
    yield ['gemv_q4', { rows, n: 1152, k: 512, group: 128 }]
    yield ['gemv_q4', { rows, n: 200, k: 1008, group: 48, zeros: 1, epilogue: 1 }]
    yield ['gemv_q4', { rows, n: 320, k: 768, group: 64, permuted: 1, epilogue: 2 }]
    for (const type of ['f16', 'bf16', 'f32']) yield [`gemv_${type}`, { rows, n: 160, k: 520 }]
  }
  for (const rows of [1, 65, 300]) {
    yield ['gemm_q4', { rows, n: 192, k: 2048, group: 32, zeros: 1 }]
    yield ['gemm_q4', { rows, n: 320, k: 768, group: 128, permuted: 1, epilogue: 2 }]
    for (const type of ['f16', 'bf16', 'f32']) yield [`gemm_${type}`, { rows, n: 160, k: 520, epilogue: 1 }]
  }
  for (const [heads, kvHeads, headDim] of [
    [8, 2, 64],
    [8, 8, 128],
    [4, 1, 256],
    [6, 2, 80],
    [71, 1, 64],
    [40, 1, 200],
  ]) {
    const shape = { heads, kvHeads, headDim }
    for (const rows of [1, 9]) yield ['attention_decode', { rows, context: 300, ...shape }]
    yield ['attention_prefill', { rows: 70, context: 100, ...shape }]
  }
}

async function wrongOperations(lab) {
  const wrong = []
  for (const [operation, dimensions] of operations()) {
    const { ok, outputs } = await verify(lab, operation, dimensions)
    if (!ok) wrong.push({ operation, dimensions, outputs })
  }
  return wrong
}

/** Rows whose bits are not those that they have alone. */
async function changedRows(lab) {
  const changed = []
  for (const dimensions of [
    { n: 192, k: 4096, group: 32, zeros: 1 },
    { n: 1152, k: 512, group: 128 },
    { n: 200, k: 1008, group: 48 },
    { n: 320, k: 768, group: 64, permuted: 1 },
  ]) {
    const firstRow = async (operation, rows) => {
      const work = await lab.prepare(operation, { ...dimensions, rows })
      const stream = await lab.stream()
      await stream.launch(work)
      await stream.synchronize()
      const bits = Buffer.from(await work.buffers.y.read(0, 4 * dimensions.n)).toString('base64')
      for (const thing of [stream, ...Object.values(work.buffers)]) await thing.release()
      return bits
    }
    for (const operation of ['gemv_q4', 'gemm_q4']) {
      const alone = await firstRow(operation, 1)
      for (const rows of [...ROWS, 130, 256]) {
        if ((await firstRow(operation, rows)) !== alone) changed.push({ operation, ...dimensions, rows })
      }
    }
  }
  return changed
}

const options = { contextLength: 192, maxSequences: 64 }
const text = Array.from({ length: 150 }, (_, i) => (i * 37 + 11) % 400)
const prompts = Array.from({ length: 64 }, (_, r) => text.slice(r, r + 3 + (r % 40)))

async function ask(model, prompt) {
  const { tokens, logprobs, topLogprobs } = await model.generate(prompt, {
    maxTokens: 12,
    ignoreEos: true,
    temperature: 0,
    logprobs: true,
    topLogprobs: 20,
  }).result
  return { tokens: [...tokens], logprobs: [...logprobs], topLogprobs }
}

/** Logits of a text, and what 64 sequences say that decode together. */
async function figures(model) {
  const { logits } = await model.score(text, { logits: true })
  return { logits: [...logits], answers: await Promise.all(prompts.map((prompt) => ask(model, prompt))) }
}

/** A model: its logits of a prompt, and of 1 to 64 sequences that decode together, beside the CPU twin and alone. */
async function modelFigures(twin) {
  const gpu = await load(demo, { ...options, device: 'cuda' })
  const found = await figures(gpu)
  let difference = 0
  let size = 0
  for (const [i, expected] of twin.logits.entries()) {
    difference += (expected - found.logits[i]) ** 2
    size += expected ** 2
  }

  const alone = []
  for (const prompt of prompts) alone.push(JSON.stringify(await ask(gpu, prompt)))
  let compared = 0
  let worst = 0
  const changed = []
  for (const sequences of ROWS) {
    const crowd = await Promise.all(prompts.slice(0, sequences).map((prompt) => ask(gpu, prompt)))
    for (const [r, answer] of crowd.entries()) {
      if (JSON.stringify(answer) !== alone[r]) changed.push({ sequences, r })
      const theirs = twin.answers[r]
      // Tokens may part where two are all but equally likely: compared is what comes before.
      for (let i = 0; i < answer.tokens.length && answer.tokens[i] === theirs.tokens[i]; i++) {
        const of = new Map(theirs.topLogprobs[i].map(({ token, logprob }) => [token, logprob]))
        for (const { token, logprob } of answer.topLogprobs[i]) {
          if (!of.has(token)) continue
          worst = Math.max(worst, Math.abs(logprob - of.get(token)))
          compared++
        }
      }
    }
  }
  await gpu.close()
  return { relativeError: Math.sqrt(difference / size), compared, worst, changed }
}

const [first, second] = process.argv.slice(2)
if (first === 'twin') {
  const cpu = await load(demo, { ...options, device: 'cpu' })
  writeFileSync(second, JSON.stringify(await figures(cpu)))
  await cpu.close()
} else {
  const lab = await openLab({ device: 'cuda' })
  const linears = { wrong: await wrongOperations(lab), changed: await changedRows(lab) }
  await lab.close()
  const model = await modelFigures(JSON.parse(readFileSync(first, 'utf8')))
  process.stdout.write(JSON.stringify({ ...linears, model }))
}
