/** The tokenizer's thread: see thread.ts. */
import { parentPort, workerData } from 'node:worker_threads'
import { MillraceError } from '../errors.ts'
import { ChatTemplate, readChatTemplate } from './chat.ts'
import { type EncodedMessage, type EncodeMessage, LONG_TEXT } from './thread.ts'
import { readTokenizerConfig, readTokenizerFiles, Tokenizer } from './tokenizer.ts'

const folder = workerData as string
let tokenizer: Promise<Tokenizer> | undefined
let template: Promise<ChatTemplate> | undefined

async function encode(message: EncodeMessage): Promise<EncodedMessage> {
  const { id } = message
  const text = 'text' in message ? message.text : await render(message)
  // Short prompts need no tokenizer here, which may take a second to read.
  if (!('text' in message) && text.length < LONG_TEXT) return { id, text }
  tokenizer ??= readTokenizerFiles(folder).then((files) => new Tokenizer(files))
  const tokens = (await tokenizer).encode(text, 'text' in message && message.specialTokens)
  return { id, tokens: Int32Array.from(tokens) }
}

async function render({ id, messages, special }: Extract<EncodeMessage, { messages: unknown }>): Promise<string> {
  // load() has read it before: it is there.
  template ??= readTokenizerConfig(folder)
    .then((config) => readChatTemplate(folder, config))
    .then((text) => new ChatTemplate(text!))
  const ready = await template
  parentPort!.postMessage({ id, rendering: true } satisfies EncodedMessage)
  try {
    return ready.render(messages, special)
  } finally {
    parentPort!.postMessage({ id, rendering: false } satisfies EncodedMessage)
  }
}

parentPort!.on('message', async (message: EncodeMessage) => {
  let answer: EncodedMessage
  try {
    answer = await encode(message)
  } catch (error) {
    const { code, message: text, remedy } = MillraceError.fromNative(error)
    answer = { id: message.id, error: { code, message: text, remedy } }
  }
  parentPort!.postMessage(answer, 'tokens' in answer ? [answer.tokens.buffer as ArrayBuffer] : [])
})
