/** Every failure of the package is a MillraceError: a stable code, a sentence, a remedy. This table is all of them. */
export const ERRORS = {
  INVALID_ARGUMENT: 'pass what the message says was expected',
  ADDON_NOT_BUILT:
    'install again with optional packages (npm install --include=optional), or compile it: npx millrace build (needs a C++20 compiler and CMake)',
  PLATFORM_UNSUPPORTED: 'millrace runs on Linux, x64 and arm64',
  CHECKPOINT_NOT_FOUND:
    'pass the path of a Hugging Face model folder with config.json and *.safetensors, or of a GGUF file, or a name such as owner/name',
  CHECKPOINT_INVALID: 'fetch the file again, or report it to whoever published the checkpoint',
  CHECKPOINT_UNSUPPORTED: 'use a checkpoint in a supported format (see README)',
  TOKENIZER_INVALID: 'fetch tokenizer.json and tokenizer_config.json again',
  CHAT_TEMPLATE_MISSING: 'use generate() with a prompt of your own',
  CHAT_TEMPLATE_INVALID: 'use generate() with a prompt of your own, and report the template to who published it',
  CHAT_TEMPLATE_UNSUPPORTED: 'use generate() with a prompt of your own, and report the template to millrace',
  CONSTRAINT_INVALID: 'mend the schema, the regular expression or the grammar as the message says',
  CONSTRAINT_UNSUPPORTED: 'leave out what the message names, and check it in the answer',
  CONSTRAINT_TOO_LARGE: 'make the constraint smaller: fewer alternatives, shorter repetitions, less nesting',
  CONTEXT_OVERFLOW: 'shorten the prompt, lower maxTokens, or load with a larger contextLength',
  OUT_OF_MEMORY: 'free memory, lower contextLength, or choose a smaller model',
  HUB_ACCESS_DENIED: "visit the model's page with the account whose token HF_TOKEN is",
  HUB_UNAVAILABLE: 'try again: what has come is kept; offline: true uses what the cache has',
  DEVICE_UNAVAILABLE: "use device: 'cpu', or see probe() for what was found",
  READ_FAILED: 'see to the disk, and load the model again',
  WRITE_FAILED: 'name a place that has room and that this user may write to',
  QUEUE_FULL: 'try again after retryAfterMs, or load with a larger maxQueue',
  QUEUE_TIMEOUT: 'try again later, with a longer queueTimeoutMs, or with a higher priority',
  DEADLINE_EXCEEDED: 'ask for fewer tokens, or give it more time',
  GPU_LOST: 'restart the process: a fault on the GPU ends its use there; models on the CPU go on',
  MODEL_CLOSED: 'load the model again',
  ABORTED: 'the signal passed to the call was aborted; call again if that was not meant',
  INTERNAL: 'please report this with the message and what led to it',
} as const

export type ErrorCode = keyof typeof ERRORS

export class MillraceError extends Error {
  /** 'MillraceError'; of ABORTED 'AbortError', as the platform's own aborts have it. */
  override readonly name: 'MillraceError' | 'AbortError'
  /** Stable: part of the API. */
  readonly code: ErrorCode
  /** What to do about it. */
  readonly remedy: string
  /** Of QUEUE_FULL: when a place in the queue is likely to be free; of HUB_UNAVAILABLE: when the hub says to come again. */
  declare readonly retryAfterMs?: number

  constructor(code: ErrorCode, options: { message: string; remedy?: string; cause?: unknown; retryAfterMs?: number }) {
    super(options.message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = code === 'ABORTED' ? 'AbortError' : 'MillraceError'
    this.code = code
    this.remedy = options.remedy ?? ERRORS[code]
    if (options.retryAfterMs !== undefined) this.retryAfterMs = options.retryAfterMs
  }

  /** True also for errors from another copy of the package. */
  static isInstance(error: unknown): error is MillraceError {
    if (!(error instanceof Error)) return false
    const { name, code } = error as MillraceError
    return name === 'MillraceError' ? typeof code === 'string' : name === 'AbortError' && code === 'ABORTED'
  }

  /** Wraps what the addon throws: an Error with string `code` and `remedy`, and sometimes `retryAfterMs`. */
  static fromNative(error: unknown): MillraceError {
    if (MillraceError.isInstance(error)) return error
    const native = error as { code?: unknown; message?: unknown; remedy?: unknown; retryAfterMs?: unknown }
    const known = typeof native?.code === 'string' && native.code in ERRORS
    return new MillraceError(known ? (native.code as ErrorCode) : 'INTERNAL', {
      message: typeof native?.message === 'string' ? native.message : String(error),
      ...(typeof native?.remedy === 'string' && native.remedy !== '' ? { remedy: native.remedy } : {}),
      ...(typeof native?.retryAfterMs === 'number' ? { retryAfterMs: native.retryAfterMs } : {}),
      cause: error,
    })
  }
}
