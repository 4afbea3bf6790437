/** Constraints as a tokenizer's answers are held to them. */
import { addon, type NativeConstraint, type NativeVocabulary } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument } from '../options/validate.ts'
import type { TextCodec } from '../text/tokenizer/codec.ts'
import { Pieces } from '../text/tokenizer/pieces.ts'
import { checkConstraint } from './check.ts'
import { unsupported } from './problems.ts'
import { constraintService, keyOf } from './service.ts'
import type { Task } from './task.ts'
import type { Constraint } from './types.ts'

/** Constraints of one vocabulary that are kept, with the states and masks that they have made. */
const KEPT = 32

interface Held {
  vocabulary: Promise<NativeVocabulary>
  /** By content, the one used longest ago first. */
  constraints: Map<string, NativeConstraint>
}

const held = new WeakMap<SharedArrayBuffer, Held>()

function heldOf(pieces: Pieces): Held {
  let found = held.get(pieces.shared)
  if (!found) {
    const vocabulary = addon().createVocabulary(new Uint8Array(pieces.shared))
    found = { vocabulary, constraints: new Map() }
    held.set(pieces.shared, found)
    vocabulary.catch(() => held.delete(pieces.shared))
  }
  return found
}

/** The native side of a task. Rejects with CONSTRAINT_INVALID, _UNSUPPORTED, _TOO_LARGE, ABORTED. */
export async function nativeConstraint(task: Task, pieces: Pieces, signal?: AbortSignal): Promise<NativeConstraint> {
  if (pieces.rules.separator !== '' || pieces.rules.cleanUp) {
    throw unsupported('a constraint with a tokenizer that changes the spaces between tokens')
  }
  const { vocabulary, constraints } = heldOf(pieces)
  const [program, words] = await Promise.all([constraintService().compile(task, signal), vocabulary])
  const key = keyOf(task)
  const made = constraints.get(key) ?? addon().createConstraint(program, words)
  constraints.delete(key)
  constraints.set(key, made)
  for (const oldest of constraints.keys()) {
    if (constraints.size <= KEPT) break
    constraints.delete(oldest)
  }
  return made
}

/** A constraint by itself, for tests and tools. */
export class CompiledConstraint implements Disposable {
  #native: NativeConstraint | undefined

  /** Called by compileConstraint(). */
  constructor(native: NativeConstraint) {
    this.#native = native
  }

  /** Whether an answer may be this text, as a whole. Throws CONSTRAINT_TOO_LARGE where it can be read in too many ways. */
  accepts(text: string): boolean {
    if (typeof text !== 'string') throw invalidArgument('a text', 'text', text)
    if (!this.#native) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: 'the constraint was closed',
        remedy: 'compile it again',
      })
    }
    return this.#native.accepts(Buffer.from(text))
  }

  /** Lets go of what it holds. */
  close(): void {
    this.#native = undefined
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/**
 * What generate() and chat() would hold answers to; integers may have an exponent, as JSON.stringify writes them from 1e21
 * on, where answers have none. Rejects with INVALID_ARGUMENT, CONSTRAINT_INVALID,
 * CONSTRAINT_UNSUPPORTED (which names what is not) or CONSTRAINT_TOO_LARGE.
 */
export async function compileConstraint(
  constraint: Constraint,
  tokenizer: Pick<TextCodec, 'encode'>,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<CompiledConstraint> {
  const { body } = checkConstraint(constraint)
  const { pieces } = (tokenizer ?? {}) as Partial<TextCodec>
  if (!(pieces instanceof Pieces)) {
    throw invalidArgument("a tokenizer, of loadTokenizer() or a model's own,", 'tokenizer', tokenizer)
  }
  const judged = body.type === 'schema' ? { ...body, exponents: true } : body
  return new CompiledConstraint(await nativeConstraint([{ body: judged }], pieces, options.signal))
}
