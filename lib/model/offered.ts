/** Answers that may call tools: calls are whole, and their arguments as the tools' schemas have them, as far as can be. */
import type { NativeConstraint } from '../binding.ts'
import { nativeConstraint } from '../constraint/constraint.ts'
import { MillraceError } from '../errors.ts'
import { type CallableTools, offeredCalls } from '../text/chat/constrain.ts'
import type { ChatFormat } from '../text/chat/format.ts'
import type { Tool } from '../text/chat/types.ts'
import type { Pieces } from '../text/tokenizer/pieces.ts'

/**
 * undefined where the format does not let calls be told from text, or be held to anything: the answer is free then. A
 * tool whose schema is not supported takes any object.
 */
export async function offeredConstraint(
  format: ChatFormat,
  promptEnd: string,
  { tools, parallel }: CallableTools,
  pieces: Pieces,
  signal: AbortSignal,
): Promise<NativeConstraint | undefined> {
  const make = async (some: readonly Tool[]) => {
    const task = offeredCalls(format, promptEnd, { tools: some, parallel }, pieces)
    return task && (await nativeConstraint(task, pieces, signal))
  }
  const unlessRefused = async <T>(made: Promise<T>): Promise<{ value: T } | undefined> => {
    try {
      return { value: await made }
    } catch (error) {
      if (error instanceof MillraceError && error.code.startsWith('CONSTRAINT_')) return undefined
      throw error
    }
  }
  const all = await unlessRefused(make(tools))
  if (all) return all.value
  const possible: Tool[] = []
  for (const tool of tools) possible.push((await unlessRefused(make([tool]))) ? tool : withAnyArguments(tool))
  return (await unlessRefused(make(possible)))?.value
}

const withAnyArguments = (tool: Tool): Tool => ({
  ...tool,
  function: { ...tool.function, parameters: { type: 'object', additionalProperties: true } },
})
