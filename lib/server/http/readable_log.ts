/** Lines of the log as a person at a terminal reads them; machines get them as JSON. */
import { inspect } from 'node:util'

/** What is in every line, or shown in a way of its own. */
const OWN = ['level', 'time', 'pid', 'hostname', 'msg', 'reqId', 'req', 'res', 'responseTime', 'err']
const LEVELS: Readonly<Record<number, string>> = { 30: '', 40: 'warning: ', 50: 'error: ', 60: 'fatal: ' }

interface Line {
  level: number
  time: number
  msg?: string
  reqId?: string
  req?: { method?: string; url?: string }
  res?: { statusCode?: number }
  responseTime?: number
  err?: { stack?: string; message?: string }
}

/** '15:47:50  POST /v1/chat/completions  [3f9a1c]'. What is no line of the log stays as it is. */
export function readable(text: string): string {
  let line: Line
  try {
    line = JSON.parse(text)
  } catch {
    return text
  }
  const { level, time, reqId, err } = line
  const clock = new Date(time).toTimeString().slice(0, 8)
  const rest = Object.entries(line).filter(([name, value]) => !OWN.includes(name) && value !== undefined)
  const fields = rest.map(([name, value]) => `  ${name}=${typeof value === 'string' ? value : inspect(value)}`).join('')
  // The last of an id tells lines of requests apart.
  const id = reqId === undefined ? '' : `  [${reqId.slice(-6)}]`
  const why = err === undefined ? '' : `\n${err.stack ?? err.message}`
  return `${clock}  ${LEVELS[level] ?? ''}${sentence(line)}${fields}${id}${why}\n`
}

function sentence({ msg = '', req, res, responseTime }: Line): string {
  if (req !== undefined && msg === 'incoming request') return `${req.method} ${req.url}`
  if (res === undefined || responseTime === undefined) return msg
  const took = `${res.statusCode} in ${responseTime < 10 ? responseTime.toFixed(1) : Math.round(responseTime)} ms`
  return msg === 'request completed' ? took : `${msg}: ${took}`
}
