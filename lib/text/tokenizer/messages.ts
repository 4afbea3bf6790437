/** Chat messages as a thread can be sent them. */

/**
 * A copy with the same texts, numbers, lists and records: what else a message may hold, such as a function, means nothing
 * to a template and cannot be sent.
 */
export function plain(value: unknown, copies = new Map<object, unknown>()): unknown {
  if (typeof value === 'function' || typeof value === 'symbol') return undefined
  if (typeof value !== 'object' || value === null) return value
  const known = copies.get(value)
  if (known !== undefined) return known
  if (Array.isArray(value)) {
    const list: unknown[] = []
    copies.set(value, list)
    for (const entry of value) list.push(plain(entry, copies))
    return list
  }
  const json = (value as { toJSON?: unknown }).toJSON
  if (typeof json === 'function') return plain(json.call(value), copies)
  const record: Record<string, unknown> = {}
  copies.set(value, record)
  for (const [key, entry] of Object.entries(value)) {
    const copy = plain(entry, copies)
    if (copy !== undefined || entry === undefined) record[key] = copy
  }
  return record
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
