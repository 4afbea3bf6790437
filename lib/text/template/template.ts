/** A chat template: Jinja 3.1 as transformers sets it. */
import { parse } from '@huggingface/jinja'
import { MillraceError } from '../../errors.ts'
import { translate } from './dialect.ts'
import { Evaluator } from './evaluate.ts'
import { fromJs } from './from_js.ts'
import { globals } from './globals.ts'
import { lex } from './lexer.ts'
import { startMeter } from './meter.ts'
import type { Statement } from './nodes.ts'
import { Lacking, PythonError, Refusal, Unbounded } from './problems.ts'
import { Scope } from './scope.ts'
import { setThrough, type Through } from './text.ts'

/** Characters of a template; the longest published ones have some 30,000. */
const MAX_TEMPLATE = 2 ** 20

export interface RenderOptions {
  /** The time that strftime_now() gives. Default: now. */
  now?: Date | undefined
  /** How escapes see through texts that stand for others. */
  through?: Through | undefined
}

export class ChatTemplate {
  readonly text: string
  readonly #body: Statement[]

  /** Throws CHAT_TEMPLATE_INVALID for what is no Jinja, CHAT_TEMPLATE_UNSUPPORTED for what is not supported of it. */
  constructor(text: string) {
    this.text = text
    try {
      if (text.length > MAX_TEMPLATE) throw new Unbounded(`more than ${MAX_TEMPLATE} characters`)
      this.#body = parse(translate(lex(text)) as Parameters<typeof parse>[0]).body as unknown as Statement[]
    } catch (cause) {
      if (cause instanceof Lacking) throw unsupported(cause)
      throw new MillraceError('CHAT_TEMPLATE_INVALID', {
        message: `the chat template does not parse: ${(cause as Error).message}`,
        cause,
      })
    }
  }

  /**
   * The text for a context such as { messages, tools, add_generation_prompt, bos_token }. Throws INVALID_ARGUMENT where
   * the template refuses its messages, CHAT_TEMPLATE_UNSUPPORTED, or CHAT_TEMPLATE_INVALID where it would not end.
   */
  render(context: Record<string, unknown>, options: RenderOptions = {}): string {
    startMeter()
    setThrough(options.through)
    try {
      const outer = new Scope(
        undefined,
        globals(() => options.now ?? new Date()),
      )
      const given = Object.entries(context).filter(([, value]) => value !== undefined)
      const scope = new Scope(
        outer,
        given.map(([name, value]) => [name, fromJs(value)]),
      )
      return new Evaluator().run(this.#body, scope)
    } catch (cause) {
      throw renderError(cause)
    } finally {
      setThrough(undefined)
    }
  }
}

const unsupported = (cause: Error) =>
  new MillraceError('CHAT_TEMPLATE_UNSUPPORTED', {
    message: `the chat template needs what millrace lacks: ${cause.message}`,
    cause,
  })

function renderError(cause: unknown): unknown {
  if (cause instanceof Refusal || cause instanceof PythonError) {
    const means = cause instanceof Refusal ? 'refused' : 'does not take'
    return new MillraceError('INVALID_ARGUMENT', {
      message: `the model's chat template ${means} the messages: ${cause.message}`,
      remedy: 'see the chat template of the model for the roles, their order and the content that it takes',
      cause,
    })
  }
  if (cause instanceof Lacking) return unsupported(cause)
  // A RangeError: V8's stack or its longest text.
  if (cause instanceof Unbounded || cause instanceof RangeError) {
    return new MillraceError('CHAT_TEMPLATE_INVALID', {
      message: `the chat template has no end: ${cause.message}`,
      cause,
    })
  }
  return cause
}
