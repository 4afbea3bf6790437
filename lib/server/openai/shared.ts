/** What OpenAI's answers have in common. */
import type { FinishReason, GenerationResult } from '../../index.ts'
import type { AnswerOptions } from '../answer/options.ts'
import { openaiError, type Problem } from '../http/problem.ts'
import { dataEvent } from '../http/sse.ts'
import { stopping } from '../pool/pool.ts'

export const DONE = 'data: [DONE]\n\n'
export const failedEvent = (problem: Problem) => dataEvent(openaiError(problem))

/** Of several answers to one prompt. The prompt counts once. */
export function usageOf(results: readonly GenerationResult[]) {
  const prompt = results[0]?.usage.promptTokens ?? 0
  const completion = results.reduce((sum, { usage }) => sum + usage.completionTokens, 0)
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
}

const REASONS = { stop: 'stop', 'tool-calls': 'tool_calls', length: 'length' } as const

/** Throws a Problem where the server ended the answer, not the model. */
export function finishReason(reason: FinishReason): (typeof REASONS)[keyof typeof REASONS] {
  if (reason === 'abort') throw stopping()
  return REASONS[reason]
}

/** Of the answer with this index, where a request wants several: seeds of their own. */
export function variantOf<Options extends AnswerOptions>(options: Options, index: number): Options {
  return options.seed === undefined || index === 0 ? options : { ...options, seed: (options.seed + index) % 2 ** 53 }
}
