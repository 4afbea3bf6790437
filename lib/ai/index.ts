/** millrace/ai: a loaded model as a language model of the AI SDK (`ai`). */
import { basename } from 'node:path'
import type { EmbeddingModelV3, LanguageModelV3, LanguageModelV3CallOptions } from '@ai-sdk/provider'
import type { Generation, GenerationChunk } from '../model/generation.ts'
import type { Model } from '../model/model.ts'
import type { ChatMessage, ChatOptions, EmbedOptions } from '../options/request.ts'
import { contentOf, metadataOf, streamOf } from './answer.ts'
import { chatOptionsOf, type OptionOfSdk } from './options.ts'
import { messagesOf } from './prompt.ts'

/** What of a Model is used. */
export interface ChatModel extends Pick<Model, 'path'> {
  chat(
    messages: readonly ChatMessage[],
    options?: ChatOptions,
  ): AsyncIterable<GenerationChunk> & Pick<Generation, 'result' | 'cancel'>
}

/** `providerOptions: { millrace: { … } }`: options of chat() that the AI SDK has no name for. */
export interface MillraceProviderOptions extends Omit<ChatOptions, OptionOfSdk> {}

/** `providerOptions: { millrace: { … } }` of embeddings. */
export interface MillraceEmbeddingOptions extends Omit<EmbedOptions, 'signal'> {}

/**
 * The model for `embed`, `embedMany` and whatever else takes an embedding model. It stays the caller's to close. Errors are
 * MillraceErrors, as those of Model.embed().
 */
export function embeddingModel(model: Pick<Model, 'path' | 'embed'>): EmbeddingModelV3 {
  return {
    specificationVersion: 'v3',
    provider: 'millrace',
    modelId: basename(model.path),
    // A long list takes turns by itself, and rides on fewer passes.
    maxEmbeddingsPerCall: Number.POSITIVE_INFINITY,
    supportsParallelCalls: true,
    async doEmbed({ values, abortSignal, providerOptions }) {
      const options = { ...providerOptions?.millrace, signal: abortSignal } as EmbedOptions
      const { embeddings, usage } = await model.embed(values, options)
      return {
        embeddings: embeddings.map((vector) => [...vector]),
        usage: { tokens: usage.promptTokens },
        warnings: [],
      }
    },
  }
}

/**
 * The model for `generateText`, `streamText` and whatever else takes a language model. It stays the caller's to close.
 * Errors are MillraceErrors, as those of chat().
 */
export function millrace(model: ChatModel): LanguageModelV3 {
  const ask = (call: LanguageModelV3CallOptions) => {
    const { messages, warnings } = messagesOf(call.prompt)
    const { options, warnings: more } = chatOptionsOf(call)
    return { generation: model.chat(messages, options), warnings: [...warnings, ...more] }
  }
  return {
    specificationVersion: 'v3',
    provider: 'millrace',
    modelId: basename(model.path),
    supportedUrls: {},
    async doGenerate(call) {
      const { generation, warnings } = ask(call)
      const content = await contentOf(generation)
      return { content, warnings, ...metadataOf(await generation.result) }
    },
    async doStream(call) {
      const { generation, warnings } = ask(call)
      return { stream: streamOf(generation, warnings) }
    },
  }
}
