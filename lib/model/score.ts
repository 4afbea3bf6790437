/** Log-probabilities of a given text. */
import type { NativeModel, NativeSchedule, NativeTokensEvent } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { publishEnd, publishStart } from './diagnostics.ts'
import type { RequestTimings } from './generation.ts'
import { callNative, runtime } from './runtime.ts'
import { abortedError, onAbort } from './signals.ts'

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

export interface ScoreTask {
  native: NativeModel
  contextLength: number
  tokens: Int32Array
  logits: boolean
  schedule: NativeSchedule
  signal: AbortSignal | undefined
  log: Logger
}

export async function score(task: ScoreTask): Promise<ScoreResult> {
  const { native, tokens, signal, contextLength } = task
  if (signal?.aborted) throw abortedError(signal, 'the request')
  if (tokens.length > contextLength) {
    throw new MillraceError('CONTEXT_OVERFLOW', {
      message: `the text has ${tokens.length} tokens, the context ${contextLength}`,
      remedy:
        'cut the text into windows of at most the context (score --window on the command line), or, where the model allows more, load with a larger contextLength',
    })
  }
  const release = runtime().hold()
  let offAbort: (() => void) | undefined
  try {
    const request = callNative(() =>
      native.submit({
        kind: 'score',
        tokens,
        maxTokens: 1,
        temperature: 0,
        topK: 0,
        topP: 1,
        minP: 0,
        typicalP: 1,
        repetitionPenalty: 1,
        presencePenalty: 0,
        frequencyPenalty: 0,
        biasTokens: new Int32Array(0),
        biasValues: new Float32Array(0),
        topLogprobs: 0,
        seed: 0,
        stopTokens: new Int32Array(0),
        logprobs: true,
        logits: task.logits,
        ...task.schedule,
      }),
    )
    publishStart({ kind: 'score', model: native.id, request, promptTokens: tokens.length, log: task.log })
    if (signal) offAbort = onAbort(signal, () => native.cancel(request))
    const event = await new Promise<NativeTokensEvent>((resolve) => {
      runtime().addRequest(request, {
        onEvent: (event) => {
          if (event.finish !== undefined) resolve(event)
        },
      })
    })
    publishEnd({
      kind: 'score',
      model: native.id,
      request,
      promptTokens: tokens.length,
      completionTokens: 0,
      finishReason: event.finish!,
      error: event.error?.code,
      timings: event.timings,
      log: task.log,
    })
    if (event.finish === 'error') throw MillraceError.fromNative(event.error)
    if (event.finish === 'abort') {
      if (signal?.aborted) throw abortedError(signal, 'the request')
      throw new MillraceError('MODEL_CLOSED', { message: 'the model was closed while the text was scored' })
    }
    const logprobs = event.logprobs ?? new Float32Array(0)
    const sum = logprobs.reduce((total, value) => total + value, 0)
    return {
      tokens,
      logprobs,
      perplexity: logprobs.length === 0 ? Number.NaN : Math.exp(-sum / logprobs.length),
      ...(event.logits ? { logits: event.logits } : {}),
      timings: event.timings ?? { queueMs: 0, firstTokenMs: 0, totalMs: 0 },
    }
  } finally {
    offAbort?.()
    release()
  }
}
