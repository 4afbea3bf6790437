/** The compiling thread: see service.ts. */
import { parentPort } from 'node:worker_threads'
import { answer, type Request } from './protocol.ts'

const port = parentPort!
port.on('message', (request: Request) => {
  const reply = answer(request)
  port.postMessage(reply, 'program' in reply ? [reply.program.buffer] : [])
})
