/** The tokenizer's thread: see thread.ts. */
import { parentPort, workerData } from 'node:worker_threads'
import type { EncodedMessage, EncodeMessage } from './thread.ts'
import { Tokenizer, type TokenizerFiles } from './tokenizer.ts'

const tokenizer = new Tokenizer(workerData as TokenizerFiles)

parentPort!.on('message', ({ id, text, specialTokens }: EncodeMessage) => {
  let answer: EncodedMessage
  try {
    answer = { id, tokens: tokenizer.encode(text, specialTokens) }
  } catch (error) {
    answer = { id, error: (error as Error).message }
  }
  parentPort!.postMessage(answer)
})
