/** The tokenizer's thread: see thread.ts. */
import { parentPort, workerData } from 'node:worker_threads'
import type { EncodedMessage, EncodeMessage } from './thread.ts'
import { readTokenizerFiles, Tokenizer } from './tokenizer.ts'

const tokenizer = readTokenizerFiles(workerData as string).then((files) => new Tokenizer(files))

parentPort!.on('message', async ({ id, text, specialTokens }: EncodeMessage) => {
  let answer: EncodedMessage
  try {
    answer = { id, tokens: (await tokenizer).encode(text, specialTokens) }
  } catch (error) {
    answer = { id, error: (error as Error).message }
  }
  parentPort!.postMessage(answer)
})
