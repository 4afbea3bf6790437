/** The tokenizer's thread: see thread.ts. */
import { parentPort, workerData } from 'node:worker_threads'
import { MillraceError } from '../errors.ts'
import { ChatTemplate, readChatTemplate } from './chat.ts'
import type { EncodedMessage, EncodeMessage } from './thread.ts'
import { readTokenizerFiles, Tokenizer } from './tokenizer.ts'

const folder = workerData as string
const tokenizer = readTokenizerFiles(folder).then((files) => new Tokenizer(files))
let template: Promise<ChatTemplate> | undefined

async function encode(message: EncodeMessage): Promise<number[]> {
  const codec = await tokenizer
  if ('text' in message) return codec.encode(message.text, message.specialTokens)
  // load() has read it before: it is there.
  template ??= readChatTemplate(folder, codec.config).then((text) => new ChatTemplate(text!))
  return codec.encode((await template).render(message.messages, codec), false)
}

parentPort!.on('message', async (message: EncodeMessage) => {
  let answer: EncodedMessage
  try {
    answer = { id: message.id, tokens: Int32Array.from(await encode(message)) }
  } catch (error) {
    const { code, message: text, remedy } = MillraceError.fromNative(error)
    answer = { id: message.id, error: { code, message: text, remedy } }
  }
  parentPort!.postMessage(answer, 'tokens' in answer ? [answer.tokens.buffer as ArrayBuffer] : [])
})
