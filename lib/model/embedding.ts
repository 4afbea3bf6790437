/** Vectors of texts: the model's final hidden states, pooled. */
import type { NativeFinish, NativeTokensEvent } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import {
  failureOf,
  type PreparedRequest,
  type PromptSource,
  Request,
  type RequestEnd,
  type RequestTask,
} from './request.ts'

export interface EmbedResult {
  /** One a text, in their order; each of Euclidean length 1. */
  embeddings: Float32Array[]
  usage: { promptTokens: number }
}

export interface EmbeddingTask extends RequestTask {
  contextLength: number
  pooling: 'mean' | 'last'
}

interface EmbeddedText {
  embedding: Float32Array
  promptTokens: number
}

export class Embedding extends Request<EmbeddedText> {
  protected readonly kind = 'embed'
  readonly #task: EmbeddingTask
  #promptTokens = 0

  constructor(task: EmbeddingTask) {
    super(task)
    this.#task = task
    this.start()
  }

  protected prepare(tokens: Int32Array): PreparedRequest {
    const { contextLength, pooling } = this.#task
    if (tokens.length > contextLength) {
      throw new MillraceError('CONTEXT_OVERFLOW', {
        message: `the text has ${tokens.length} tokens, the context ${contextLength}`,
        remedy: 'cut the text, or, where the model allows more, load with a larger contextLength',
      })
    }
    this.#promptTokens = tokens.length
    return { kind: 'embed', tokens, pooling }
  }

  /** All comes with the last event. */
  protected take(): void {}

  protected complete({ finish, event }: RequestEnd): EmbeddedText {
    if (finish === 'error') throw failureOf(event)
    if (finish === 'abort') {
      throw new MillraceError('MODEL_CLOSED', { message: 'the model was closed while texts were embedded' })
    }
    return { embedding: (event as NativeTokensEvent).embedding!, promptTokens: this.#promptTokens }
  }

  protected summary(finish: NativeFinish) {
    return { finishReason: finish, completionTokens: 0 }
  }
}

/** Texts of a call that are under way at once: of a long list the others wait here, and fill no queue. */
const MOST_AT_ONCE = 32

/**
 * All of a list, so many at a time. The first failure ends the others. A place in the queue is what only the first text needs:
 * of one that is refused while others of the list run, the next to end leaves its place.
 */
export async function embedAll(
  sources: readonly PromptSource[],
  dimensions: number | undefined,
  start: (source: PromptSource, signal: AbortSignal) => Embedding,
  signal: AbortSignal | undefined,
): Promise<EmbedResult> {
  const failed = new AbortController()
  const either = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal
  const results: EmbeddedText[] = []
  const left = [...sources.keys()]
  let running = 0
  const worker = async () => {
    for (let index = left.shift(); index !== undefined; index = left.shift()) {
      running++
      try {
        results[index] = await start(sources[index]!, either).result
      } catch (error) {
        if (running === 1 || !isQueueFull(error)) throw error
        left.unshift(index)
        return
      } finally {
        running--
      }
    }
  }
  try {
    await Promise.all(Array.from({ length: Math.min(MOST_AT_ONCE, sources.length) }, worker))
  } catch (error) {
    failed.abort()
    throw error
  }
  return {
    embeddings: results.map(({ embedding }) =>
      dimensions === undefined ? embedding : shortened(embedding, dimensions),
    ),
    usage: { promptTokens: results.reduce((sum, { promptTokens }) => sum + promptTokens, 0) },
  }
}

const isQueueFull = (error: unknown) => MillraceError.isInstance(error) && error.code === 'QUEUE_FULL'

function shortened(vector: Float32Array, dimensions: number): Float32Array {
  const part = vector.slice(0, dimensions)
  const length = Math.sqrt(part.reduce((sum, value) => sum + value * value, 0))
  return length === 0 ? part : part.map((value) => value / length)
}
