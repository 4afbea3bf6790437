/** Constraints as tests try them: compiled in this thread, read by the native matcher. */
import { addon, type NativeConstraint } from '../../../lib/binding.ts'
import { compileTask } from '../../../lib/constraint/compile.ts'
import type { Json } from '../../../lib/constraint/schema/nodes.ts'
import type { Body } from '../../../lib/constraint/task.ts'
import { Pieces } from '../../../lib/text/tokenizer/pieces.ts'

const none = addon().createVocabulary(new Uint8Array(Pieces.none().shared))

export async function compiled(body: Body): Promise<NativeConstraint> {
  return addon().createConstraint(compileTask([{ body }]), await none)
}

/** As compileConstraint() has it. */
export const ofSchema = (schema: unknown, flexible = false) =>
  compiled({ type: 'schema', schema: schema as Json, flexible, exponents: true })

/** As answers are held to it. */
export const ofAnswers = (schema: unknown) => compiled({ type: 'schema', schema: schema as Json, flexible: false })

export const accepts = (constraint: NativeConstraint, text: string) => constraint.accepts(Buffer.from(text))
export const acceptsJson = (constraint: NativeConstraint, value: unknown) => accepts(constraint, JSON.stringify(value))
