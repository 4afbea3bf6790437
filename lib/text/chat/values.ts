/** Values as models write them beside JSON: Python's literals, Gemma's, calls as Python has them. All become JSON. */

const NAMES: Record<string, string> = { True: 'true', False: 'false', None: 'null' }

/** JSON, or Python's writing of it, as JSON; undefined if it is neither. */
export function looseJson(written: string): string | undefined {
  const text = written.trim()
  if (isJson(text)) return text
  // Only where quotes or names are Python's; texts in double quotes stay as they are.
  const converted = text.replace(
    /"(?:[^"\\]|\\.)*"|'((?:[^'\\]|\\.)*)'|\b(True|False|None)\b/gs,
    (whole, quoted: string | undefined, name: string | undefined) => {
      if (name !== undefined) return NAMES[name]!
      return quoted === undefined ? whole : JSON.stringify(unescaped(quoted))
    },
  )
  return isJson(converted) ? converted : undefined
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

const ESCAPES: Record<string, string> = { n: '\n', t: '\t', r: '\r' }
const unescaped = (text: string) => text.replace(/\\(.)/gs, (_, character: string) => ESCAPES[character] ?? character)

/** {key:<|"|>text<|"|>,other:[1,{a:true}]} as JSON. */
export function gemmaJson(written: string): string | undefined {
  const texts: string[] = []
  const plain = written
    .replace(/<\|"\|>([\s\S]*?)<\|"\|>/g, (_, text: string) => `"${texts.push(text) - 1}"`)
    .replace(
      /([{,]\s*)([^\s{}[\],:"][^{}[\],:"]*?)\s*:/g,
      (_, before: string, key: string) => `${before}${JSON.stringify(`k${key}`)}:`,
    )
    .replace(/\bNone\b/g, 'null')
    .replace(/\bTrue\b/g, 'true')
    .replace(/\bFalse\b/g, 'false')
  try {
    const value: unknown = JSON.parse(plain)
    return JSON.stringify(restored(value, texts))
  } catch {
    return undefined
  }
}

function restored(value: unknown, texts: readonly string[]): unknown {
  if (typeof value === 'string') return texts[Number(value)] ?? value
  if (Array.isArray(value)) return value.map((item) => restored(item, texts))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key.slice(1), restored(item, texts)]))
}

export interface WrittenCall {
  name: string
  arguments: string
}

const CALL_START = /\s*,?\s*([A-Za-z_][\w.-]*)\(/y
const KEY = /\s*,?\s*([A-Za-z_][\w-]*)\s*=\s*/y

/** f(a='text', b=1), g(): the calls of a list without its brackets. Texts may hold their own quotes and line ends. */
export function pythonCalls(written: string): WrittenCall[] {
  const calls: WrittenCall[] = []
  let at = 0
  while (at < written.length) {
    CALL_START.lastIndex = at
    const start = CALL_START.exec(written)
    if (!start) break
    at = CALL_START.lastIndex
    const pairs: string[] = []
    for (;;) {
      KEY.lastIndex = at
      const key = KEY.exec(written)
      if (!key) break
      const [value, end] = pythonValue(written, KEY.lastIndex)
      pairs.push(`${JSON.stringify(key[1])}: ${value}`)
      at = end
    }
    calls.push({ name: start[1]!, arguments: `{${pairs.join(', ')}}` })
    const close = written.indexOf(')', at)
    if (close === -1) break
    at = close + 1
  }
  return calls
}

/** What may stand behind a value: another key, or the end of the call. */
const BEHIND = /^\s*(?:,\s*[A-Za-z_][\w-]*\s*=|\)\s*(?:,\s*[A-Za-z_][\w.-]*\(|$))/

function pythonValue(text: string, start: number): [json: string, end: number] {
  const quote = text[start]
  if (quote === "'" || quote === '"') {
    for (let end = text.indexOf(quote, start + 1); end !== -1; end = text.indexOf(quote, end + 1)) {
      if (BEHIND.test(text.slice(end + 1))) return [JSON.stringify(text.slice(start + 1, end)), end + 1]
    }
  }
  for (let end = start + 1; end < text.length; end++) {
    if (!BEHIND.test(text.slice(end, end + 200)) && text[end] !== ')') continue
    const json = looseJson(text.slice(start, end))
    if (json !== undefined) return [json, end]
  }
  return [JSON.stringify(text.slice(start)), text.length]
}
