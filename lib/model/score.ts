/** Log-probabilities of a given text. */
import type { NativeFinish, NativeTokensEvent } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import {
  failureOf,
  type PreparedRequest,
  Request,
  type RequestEnd,
  type RequestTask,
  type RequestTimings,
} from './request.ts'

export interface ScoreResult {
  /** The tokens of the text. */
  tokens: Int32Array
  /** [tokens - 1]: natural logarithm of the probability; logprobs[i] belongs to tokens[i + 1]. */
  logprobs: Float32Array
  /** exp of the mean negative log-probability; NaN of a single token. */
  perplexity: number
  /** If asked for: [tokens, vocabulary], row after row; row i predicts tokens[i + 1]. */
  logits?: Float32Array
  timings: RequestTimings
}

export interface ScoreTask extends RequestTask {
  contextLength: number
  vocab: number
  logits: boolean
}

/** Of logits: more is hardly meant, and can be had in parts. */
const MAX_LOGIT_BYTES = 2 ** 30

export class Score extends Request<ScoreResult> {
  protected readonly kind = 'score'
  readonly #task: ScoreTask
  #tokens: Int32Array = new Int32Array(0)

  constructor(task: ScoreTask) {
    super(task)
    this.#task = task
    this.start()
  }

  protected prepare(tokens: Int32Array): PreparedRequest {
    const { contextLength, vocab, logits } = this.#task
    if (tokens.length > contextLength) {
      throw new MillraceError('CONTEXT_OVERFLOW', {
        message: `the text has ${tokens.length} tokens, the context ${contextLength}`,
        remedy:
          'cut the text into windows of at most the context (score --window on the command line), or, where the model allows more, load with a larger contextLength',
      })
    }
    const bytes = logits ? tokens.length * vocab * Float32Array.BYTES_PER_ELEMENT : 0
    if (bytes > MAX_LOGIT_BYTES) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `expected logits of at most ${MAX_LOGIT_BYTES} bytes but ${tokens.length} tokens x ${vocab} of the vocabulary take ${bytes}`,
        remedy: `score at most ${Math.floor(MAX_LOGIT_BYTES / 4 / vocab)} tokens at once with logits: true`,
      })
    }
    this.#tokens = tokens
    return { kind: 'score', tokens, logits }
  }

  /** All comes with the last event. */
  protected take(): void {}

  protected complete({ finish, timings, event }: RequestEnd): ScoreResult {
    if (finish === 'error') throw failureOf(event)
    if (finish === 'abort') {
      throw new MillraceError('MODEL_CLOSED', { message: 'the model was closed while the text was scored' })
    }
    return { tokens: this.#tokens, ...likelihood(event!), timings }
  }

  protected summary(finish: NativeFinish) {
    return { finishReason: finish, completionTokens: 0 }
  }
}

function likelihood({
  logprobs = new Float32Array(0),
  logits,
}: NativeTokensEvent): Omit<ScoreResult, 'tokens' | 'timings'> {
  const sum = logprobs.reduce((total, value) => total + value, 0)
  const perplexity = logprobs.length === 0 ? Number.NaN : Math.exp(-sum / logprobs.length)
  return { logprobs, perplexity, ...(logits ? { logits } : {}) }
}
