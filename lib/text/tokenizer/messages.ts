/** Chat messages as a thread can be sent them. */
import { nestedTooDeep } from '../chat/messages.ts'

/** Of lists and records within each other: V8's stack, which is shorter in threads, ends at some thousands. */
const MAX_DEPTH = 500

/**
 * A copy with the same texts, numbers, lists and records: what else a message may hold, such as a function, means nothing
 * to a template and cannot be sent. Throws INVALID_ARGUMENT of what is nested deeper than any chat is.
 */
export function plain(value: unknown, copies = new Map<object, unknown>(), depth = 0): unknown {
  if (typeof value === 'function' || typeof value === 'symbol') return undefined
  if (typeof value !== 'object' || value === null) return value
  const known = copies.get(value)
  if (known !== undefined) return known
  if (depth > MAX_DEPTH) throw nestedTooDeep()
  if (Array.isArray(value)) {
    const list: unknown[] = []
    copies.set(value, list)
    for (const entry of value) list.push(plain(entry, copies, depth + 1))
    return list
  }
  const json = (value as { toJSON?: unknown }).toJSON
  if (typeof json === 'function') return plain(json.call(value), copies, depth + 1)
  const record: Record<string, unknown> = {}
  copies.set(value, record)
  for (const [key, entry] of Object.entries(value)) {
    const copy = plain(entry, copies, depth + 1)
    if (copy !== undefined || entry === undefined) own(record, key, copy)
  }
  return record
}

/** An argument of a tool may be called __proto__, to which an assignment would give another meaning. */
function own(record: object, key: string, value: unknown): void {
  Object.defineProperty(record, key, { value, writable: true, enumerable: true, configurable: true })
}

/** Characters of all texts in what plain() made, and some for each thing in it: how long a template may take with it. */
export function sizeOf(value: unknown, seen = new Set<object>()): number {
  if (typeof value === 'string') return value.length
  if (typeof value !== 'object' || value === null || seen.has(value)) return 0
  seen.add(value)
  let size = 0
  for (const [key, entry] of Object.entries(value)) size += 16 + key.length + sizeOf(entry, seen)
  return size
}
