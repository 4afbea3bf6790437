/** Figures for people. */

/** Decimal units, three significant digits: '8.25 MB'. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let value = bytes
  let unit = 0
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return unit === 0 ? `${bytes} B` : `${value.toPrecision(3)} ${units[unit]}`
}

/** The library's megabytes, whose parts add up, as all other figures: '39503 MB' is '39.5 GB'. */
export const withGigabytes = (text: string) =>
  text.replace(/\b(\d{4,}) MB\b/g, (_, megabytes) => formatBytes(Number(megabytes) * 1e6))

export function formatCount(count: number): string {
  return count.toLocaleString('en-US')
}

/** 'name  value' lines with the values in one column. */
export function formatTable(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length))
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}\n`).join('')
}
