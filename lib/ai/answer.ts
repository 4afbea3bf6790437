/** An answer of chat() -> content, stream and figures of the AI SDK. */
import type {
  JSONObject,
  LanguageModelV3Content,
  LanguageModelV3FinishReason,
  LanguageModelV3StreamPart,
  LanguageModelV3Usage,
  SharedV3Warning,
} from '@ai-sdk/provider'
import type { FinishReason, Generation, GenerationChunk, GenerationResult } from '../model/generation.ts'
import type { Part } from '../text/chat/parts.ts'

type Answer = AsyncIterable<GenerationChunk> & Pick<Generation, 'result' | 'cancel'>
type AnswerPart = Exclude<Part, { type: 'finish' }>

/** In the order of the answer. */
export async function contentOf(answer: Answer): Promise<LanguageModelV3Content[]> {
  const content: LanguageModelV3Content[] = []
  for await (const chunk of answer) {
    for (const part of partsOf(chunk)) {
      const last = content.at(-1)
      if (part.type === 'call') {
        content.push({ type: 'tool-call', toolCallId: part.id, toolName: part.name, input: '' })
      } else if (part.type === 'arguments') {
        if (last?.type === 'tool-call') last.input += part.text
      } else if (last?.type === part.type) last.text += part.text
      else content.push({ type: part.type, text: part.text })
    }
  }
  return content
}

/** Read at the reader's pace; who leaves it cancels the answer. */
export function streamOf(answer: Answer, warnings: SharedV3Warning[]): ReadableStream<LanguageModelV3StreamPart> {
  const parts = streamParts(answer, warnings)
  return new ReadableStream({
    async pull(controller) {
      const { value, done } = await parts.next()
      if (done) controller.close()
      else controller.enqueue(value)
    },
    cancel: () => answer.cancel(),
  })
}

async function* streamParts(answer: Answer, warnings: SharedV3Warning[]): AsyncGenerator<LanguageModelV3StreamPart> {
  yield { type: 'stream-start', warnings }
  try {
    const blocks = new Blocks()
    for await (const chunk of answer) for (const part of partsOf(chunk)) yield* blocks.push(part)
    yield* blocks.end()
    yield { type: 'finish', ...metadataOf(await answer.result) }
  } catch (error) {
    yield { type: 'error', error }
  }
}

/** Where the model's format is not known, text is all that there is. */
function partsOf({ text, parts }: GenerationChunk): AnswerPart[] {
  if (parts === undefined) return text === '' ? [] : [{ type: 'text', text }]
  return parts.filter((part): part is AnswerPart => part.type !== 'finish')
}

type Block = { type: 'text' | 'reasoning'; id: string } | { type: 'call'; id: string; name: string; input: string }

/** Each stretch of text or reasoning, and each call, between its start and its end. */
class Blocks {
  #open: Block | undefined
  #count = 0

  push(part: AnswerPart): LanguageModelV3StreamPart[] {
    if (part.type === 'call') {
      const ended = this.end()
      this.#open = { type: 'call', id: part.id, name: part.name, input: '' }
      return [...ended, { type: 'tool-input-start', id: part.id, toolName: part.name }]
    }
    if (part.type === 'arguments') {
      if (this.#open?.type !== 'call') return []
      this.#open.input += part.text
      return [{ type: 'tool-input-delta', id: this.#open.id, delta: part.text }]
    }
    if (this.#open?.type === part.type) return [{ type: `${part.type}-delta`, id: this.#open.id, delta: part.text }]
    const ended = this.end()
    const id = String(this.#count++)
    this.#open = { type: part.type, id }
    return [...ended, { type: `${part.type}-start`, id }, { type: `${part.type}-delta`, id, delta: part.text }]
  }

  end(): LanguageModelV3StreamPart[] {
    const open = this.#open
    this.#open = undefined
    if (open === undefined) return []
    if (open.type !== 'call') return [{ type: `${open.type}-end`, id: open.id }]
    const { id, name, input } = open
    return [
      { type: 'tool-input-end', id },
      { type: 'tool-call', toolCallId: id, toolName: name, input },
    ]
  }
}

/** What an answer has besides its content. */
export function metadataOf(result: GenerationResult) {
  const { seed, timings, usage, logprobs, topLogprobs } = result
  const { truncatedTokens } = usage
  const figures = {
    seed,
    timings: { ...timings },
    ...(truncatedTokens === undefined ? {} : { truncatedTokens }),
    ...(logprobs === undefined ? {} : { logprobs }),
    ...(topLogprobs === undefined ? {} : { topLogprobs }),
  }
  return {
    finishReason: finishReasonOf(result.finishReason),
    usage: usageOf(result),
    providerMetadata: { millrace: figures as unknown as JSONObject },
  }
}

function finishReasonOf(raw: FinishReason): LanguageModelV3FinishReason {
  return { unified: raw === 'abort' ? 'other' : raw, raw }
}

function usageOf({ usage, reasoning }: GenerationResult): LanguageModelV3Usage {
  const { promptTokens, completionTokens } = usage
  // How many of the tokens were thoughts is not counted.
  const split = reasoning === undefined ? { text: completionTokens, reasoning: 0 } : unknownSplit
  return {
    inputTokens: { total: promptTokens, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: completionTokens, ...split },
  }
}

const unknownSplit = { text: undefined, reasoning: undefined }
