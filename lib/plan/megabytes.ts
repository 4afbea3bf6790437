/** Bytes as complaints about memory tell them. */

/** '8.2 MB', '16384 MB'. */
export function megabytes(bytes: number): string {
  return show(bytes, bytes)
}

/**
 * What parts take, and all of them: the parts that are shown sum up to the sum that is shown. What takes nothing is left
 * out.
 */
export function megabytesOf(parts: Readonly<Record<string, number>>): { sum: string; parts: string } {
  const entries = Object.entries(parts).filter(([, bytes]) => bytes > 0)
  const total = entries.reduce((sum, [, bytes]) => sum + bytes, 0)
  const step = stepOf(total)
  const rounded = entries.map(([name, bytes]) => [name, Math.round(bytes / step) * step] as const)
  const sum = rounded.reduce((all, [, bytes]) => all + bytes, 0)
  return {
    sum: show(sum, total),
    parts: rounded.map(([name, bytes]) => `${name} ${show(bytes, total)}`).join(', '),
  }
}

const stepOf = (bytes: number) => (bytes < 1e8 ? 1e5 : 1e6)

/** With a digit behind the point where `scale` is small. */
const show = (bytes: number, scale: number) => `${(bytes / 1e6).toFixed(stepOf(scale) === 1e5 ? 1 : 0)} MB`
