/** The tokenizer's thread: see service.ts. */
import { parentPort } from 'node:worker_threads'
import { TokenizerHost } from './host.ts'
import type { Reply } from './protocol.ts'

const port = parentPort!
const host = new TokenizerHost((reply: Reply) => {
  port.postMessage(reply, 'tokens' in reply ? [reply.tokens.buffer as ArrayBuffer] : [])
})
port.on('message', (request) => host.take(request))
