/** A wrong argument is told with what to pass, and not with where to read about it. */
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { ERRORS } from '../../lib/errors.ts'
import {
  calibrate,
  inspect,
  listCache,
  load,
  loadTokenizer,
  MillraceError,
  type Model,
  plan,
  probe,
} from '../../lib/index.ts'
import { describe as describeOperation, openLab, shapedOperations } from '../../lib/lab/index.ts'
import { MODELS } from '../models.ts'

const demo = join(MODELS, 'demo')
const wrong = (value: unknown) => value as never

let model: Model
beforeAll(async () => {
  model = await load(demo, { device: 'cpu', contextLength: 64 })
  return () => model.close()
})

const calls: [string, () => unknown][] = [
  ...Object.entries({
    device: 'gpu',
    placement: 'moon',
    ring: 'lots',
    arena: '2G',
    turnMs: 0,
    contextLength: -1,
    maxSequences: 0.5,
    kvTokens: 'many',
    vramBudget: '6G',
    ramBudget: '0%',
    batch: 0,
    coExecute: 'yes',
    adaptive: 1,
    threads: 0,
    head: 'q5',
    cache: '',
    logger: {},
    kernels: 'gemv_q4',
    maxQueue: 0,
    signal: {},
    onProgress: true,
    contextLenght: 5,
  }).map(([name, value]): [string, () => unknown] => [`load: ${name}`, () => load(demo, wrong({ [name]: value }))]),
  ...Object.entries({
    maxTokens: 0,
    temperature: -1,
    topK: -1,
    topP: 2,
    seed: -1,
    stop: '',
    stopTokens: [1e9],
    logitBias: { a: 1 },
    truncate: 'end',
    deadlineMs: -1,
    temprature: 1,
  }).map(([name, value]): [string, () => unknown] => [
    `generate: ${name}`,
    () => model.generate('Once', wrong({ [name]: value })),
  ]),
  ['generate: no prompt', () => model.generate(wrong({})).result],
  ['generate: a token of no vocabulary', () => model.generate([99_999_999]).result],
  ['chat: no messages', () => model.chat([])],
  ['score: logits', () => model.score('Once upon', wrong({ logits: 1 }))],
  ['close: drain', () => model.close(wrong({ drain: 'no' }))],
  ['trace: no path', () => model.trace(wrong(5))],
  ['load: a context beyond the model', () => load(demo, { contextLength: 5000 })],
  ['load: homes of another model', () => load(demo, { placement: ['resident', 'streamed'] })],
  ['load: no folder', () => load(wrong(7))],
  ['plan: no shape', () => plan('llama9')],
  ['inspect: head', () => inspect(demo, wrong({ head: 5 }))],
  ['probe', () => probe(wrong({ dramBandwidth: 1 }))],
  ['calibrate', () => calibrate(wrong({ threads: -1 }))],
  ['listCache', () => listCache(wrong(5))],
  ['openLab', () => openLab({ device: 'gpu' })],
  ['an operation', () => describeOperation('gemv_q5', {})],
  ['an operation of no model', () => shapedOperations('nope', model.spec)],
  ['a linear of no type', () => shapedOperations('gemv_q5', model.spec)],
  ['trace: a path with a NUL', () => model.trace('a\0b')],
  ['loadTokenizer: options', () => loadTokenizer(demo, wrong({ sginal: undefined }))],
  ['decode: no ids', () => model.tokenizer.decode(wrong(new BigInt64Array(1)))],
]

describe('the remedy', () => {
  test.each(calls)('%s', async (_, call) => {
    const error = await (async () => call())().then(
      () => undefined,
      (error: unknown) => error,
    )
    expect(MillraceError.isInstance(error), String(error)).toBe(true)
    const { code, remedy } = error as MillraceError
    expect(code).toBe('INVALID_ARGUMENT')
    expect(remedy).not.toMatch(/documentation/)
    expect(remedy).not.toBe(ERRORS.INVALID_ARGUMENT)
    expect(remedy.length).toBeGreaterThan(10)
  })
})
