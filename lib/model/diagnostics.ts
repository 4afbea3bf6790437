/** What is told of every request: on diagnostics channels, and to the logger. */
import { channel } from 'node:diagnostics_channel'
import type { NativeFinish, NativeRequestKind } from '../binding.ts'
import type { Logger } from '../log.ts'
import type { RequestTimings } from './request.ts'

const start = channel('millrace:request:start')
const end = channel('millrace:request:end')

interface RequestFacts {
  kind: NativeRequestKind['kind']
  model: number
  request: number
  promptTokens: number
}

interface EndFacts extends RequestFacts {
  completionTokens: number
  finishReason: NativeFinish
  /** The code of finish reason 'error'. */
  error: string | undefined
  timings: RequestTimings | undefined
}

/** When a request has been handed to the engine. */
export function publishStart({ log, ...facts }: RequestFacts & { log: Logger }): void {
  if (start.hasSubscribers) start.publish(facts)
  log.debug(facts, 'request started')
}

/** When the engine is done with it. */
export function publishEnd({ log, ...facts }: EndFacts & { log: Logger }): void {
  if (end.hasSubscribers) end.publish(facts)
  if (facts.finishReason !== 'error') log.debug(facts, 'request ended')
  else if (facts.error === 'INTERNAL' || facts.error === 'GPU_LOST') log.error(facts, 'request failed')
  else log.warn(facts, 'request failed')
}
