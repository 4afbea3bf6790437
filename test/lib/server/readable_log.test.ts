import { expect, test } from 'vitest'
import { readable } from '../../../lib/server/http/readable_log.ts'

const time = new Date(2026, 10, 30, 15, 4, 5).getTime()
const line = (fields: object) =>
  readable(`${JSON.stringify({ level: 30, time, pid: 1, hostname: 'here', ...fields })}\n`)

test('lines of the log as a person reads them', () => {
  const asked = { reqId: 'req_0123456789ab', req: { method: 'POST', url: '/v1/chat/completions', remotePort: 7 } }
  expect(line({ ...asked, msg: 'incoming request' })).toBe('15:04:05  POST /v1/chat/completions  [6789ab]\n')
  const done = { reqId: 'req_0123456789ab', res: { statusCode: 200 }, responseTime: 12.34 }
  expect(line({ ...done, msg: 'request completed' })).toBe('15:04:05  200 in 12 ms  [6789ab]\n')
  expect(line({ model: 'demo', ms: 310, msg: 'model is ready' })).toBe('15:04:05  model is ready  model=demo  ms=310\n')
  const failed = { level: 50, code: 'INTERNAL', err: { message: 'no', stack: 'Error: no\n    at here' }, msg: 'failed' }
  expect(line(failed)).toBe('15:04:05  error: failed  code=INTERNAL\nError: no\n    at here\n')
  expect(readable('no JSON\n')).toBe('no JSON\n')
})
