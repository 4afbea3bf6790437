/** Options of what is asked of a model: answers, scores, chats. */
import { z } from 'zod'
import { answerRows, type OptionsOf, type sampling, scheduling, shapeOf } from './sampling.ts'
import { boolean, signal } from './validate.ts'

/** When a request may run. */
export interface ScheduleOptions extends OptionsOf<typeof scheduling> {}

export interface GenerateOptions extends OptionsOf<typeof sampling>, ScheduleOptions {
  /** Aborts the request: iteration and result reject with an AbortError whose code is ABORTED. */
  signal?: AbortSignal | undefined
}

export interface ScoreOptions extends ScheduleOptions {
  /** Put before a text what the tokenizer puts there, a first token as a rule. Default true. */
  specialTokens?: boolean | undefined
  /** Give every position's logits too: float32 [tokens, vocabulary]. Default false. */
  logits?: boolean | undefined
  /** Aborts the request: it rejects with an AbortError whose code is ABORTED. */
  signal?: AbortSignal | undefined
}

export interface ChatMessage {
  /** 'system', 'user', 'assistant', or what else the model's chat template knows. */
  role: string
  content: string
}

export const generateOptions = z.strictObject({ ...shapeOf(answerRows), signal: signal().optional() })

export const scoreOptions = z.strictObject({
  ...shapeOf(scheduling),
  specialTokens: boolean().optional(),
  logits: boolean().optional(),
  signal: signal().optional(),
})

export const chatMessages = z
  .array(
    z.looseObject(
      {
        role: z.string({ error: 'a text' }).min(1, { error: 'a text that is not empty' }),
        content: z.string({ error: 'a text' }),
      },
      { error: "an object such as { role: 'user', content: 'Hello' }" },
    ),
    { error: "an array of messages such as [{ role: 'user', content: 'Hello' }]" },
  )
  .min(1, { error: 'an array of at least one message' })
  .readonly()
