/** The page of `millrace bench stream`: plots in SVG, nothing loaded from anywhere. */
import type { StreamReport, StreamRun } from './bench_stream.ts'
import { significant } from './plan.ts'

interface Series {
  name: string
  points: { x: number; y: number; label: string }[]
}

interface Plot {
  title: string
  x: string
  y: string
  series: Series[]
  logX?: boolean
  logY?: boolean
  /** y = x, with a band of ten percent on both sides. */
  diagonal?: boolean
  joined?: boolean
  yRange?: [number, number]
}

const SIZE = { width: 640, height: 360, left: 64, right: 16, top: 16, bottom: 48 }
const COLOURS = ['#1b6ca8', '#c8553d', '#3a7d44', '#7b4fa3', '#b8860b', '#555555']
const GIB = 2 ** 30

export function streamPage(report: StreamReport): string {
  const { runs } = report
  const batches = [...new Set(runs.map((run) => run.batch))]
  const series = (x: (run: StreamRun) => number, y: (run: StreamRun) => number): Series[] =>
    batches.map((batch) => ({
      name: `batch ${batch}`,
      points: runs
        .filter((run) => run.batch === batch)
        .map((run) => ({ x: x(run), y: y(run), label: `${run.budget}: ${significant(y(run))}` }))
        .sort((a, b) => a.x - b.x),
    }))
  const vram = (run: StreamRun) => run.vramBytes / GIB
  const plots: Plot[] = [
    {
      title: 'Throughput against GPU memory',
      x: 'GPU memory, GiB',
      y: 'tokens a second, all sequences',
      series: series(vram, (run) => run.tokensPerSecond),
      logY: true,
      joined: true,
    },
    {
      title: 'Use of the link while decoding',
      x: 'GPU memory, GiB',
      y: 'share of its best copy in the same run, %',
      series: series(vram, (run) => run.linkShare * 100),
      yRange: [0, 105],
      joined: true,
    },
    {
      title: 'Predicted against measured',
      x: 'predicted, tokens a second',
      y: 'measured',
      series: series(
        (run) => run.predictedTokensPerSecond,
        (run) => run.tokensPerSecond,
      ),
      logX: true,
      logY: true,
      diagonal: true,
    },
  ]
  const facts = [
    `${report.gpu}, link ${(report.linkBytesPerSecond / 1e9).toFixed(2)} GB/s`,
    `prompts of ${report.prompt} and answers of ${report.tokens} tokens, head ${report.head}`,
    report.calibrated ? 'predictions from this machine’s calibration' : 'not calibrated: predictions are guesses',
    report.date,
  ]
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>${escapeHtml(report.model)}: streaming</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 0 0 .5rem }
section { display: inline-block; margin: 0 1.5rem 1.5rem 0; vertical-align: top }
svg { max-width: 100%; height: auto } svg text { font-size: 12px; fill: #444 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd } td:last-child, th:last-child { text-align: left }
</style>
<h1>${escapeHtml(report.model)}</h1>
<p>${facts.map(escapeHtml).join(' · ')}</p>
${plots.map((plot) => `<section><h2>${escapeHtml(plot.title)}</h2>\n${draw(plot)}</section>`).join('\n')}
${table(runs)}
</html>
`
}

function table(runs: readonly StreamRun[]): string {
  const columns: [string, (run: StreamRun) => string][] = [
    ['batch', (run) => String(run.batch)],
    ['budget', (run) => run.budget],
    ['VRAM, GiB', (run) => (run.vramBytes / GIB).toFixed(2)],
    ['predicted, tok/s', (run) => significant(run.predictedTokensPerSecond)],
    ['measured, tok/s', (run) => significant(run.tokensPerSecond)],
    ['off, %', (run) => ((run.predictedTokensPerSecond / run.tokensPerSecond - 1) * 100).toFixed(1)],
    ['link, %', (run) => (run.linkShare * 100).toFixed(1)],
    ['bound by', (run) => run.boundBy],
    ['prefill, tok/s', (run) => significant(run.prefillTokensPerSecond)],
    ['homes', (run) => run.homes],
  ]
  const row = (cells: string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`
  const head = row(
    columns.map(([name]) => name),
    'th',
  )
  return `<table>\n${[
    head,
    ...runs.map((run) =>
      row(
        columns.map(([, text]) => text(run)),
        'td',
      ),
    ),
  ].join('\n')}\n</table>`
}

function draw(plot: Plot): string {
  const points = plot.series.flatMap((series) => series.points)
  if (points.length === 0) return '<p>no runs</p>'
  const xs = points.map((point) => point.x)
  const ys = points.map((point) => point.y)
  const shared = plot.diagonal ? [...xs, ...ys] : undefined
  const x = axis(shared ?? xs, plot.logX ?? false, SIZE.left, SIZE.width - SIZE.right)
  const y = axis(plot.yRange ?? shared ?? ys, plot.logY ?? false, SIZE.height - SIZE.bottom, SIZE.top)
  const parts: string[] = []
  const text = (at: [number, number], anchor: string, content: string, more = '') =>
    `<text x="${round(at[0])}" y="${round(at[1])}" text-anchor="${anchor}"${more}>${escapeHtml(content)}</text>`
  const bottom = SIZE.height - SIZE.bottom
  for (const tick of x.ticks) {
    const at = x.place(tick)
    parts.push(
      `<path d="M${round(at)} ${SIZE.top}V${bottom}" stroke="#eee"/>`,
      text([at, bottom + 16], 'middle', label(tick)),
    )
  }
  for (const tick of y.ticks) {
    const at = y.place(tick)
    parts.push(
      `<path d="M${SIZE.left} ${round(at)}H${SIZE.width - SIZE.right}" stroke="#eee"/>`,
      text([SIZE.left - 6, at + 4], 'end', label(tick)),
    )
  }
  if (plot.diagonal) {
    for (const [factor, stroke] of [
      [1, '#888'],
      [0.9, '#ccc'],
      [1.1, '#ccc'],
    ] as const) {
      const [low, high] = [x.low, x.high]
      parts.push(
        `<path d="M${round(x.place(low))} ${round(y.place(low * factor))}L${round(x.place(high))} ${round(y.place(high * factor))}" stroke="${stroke}"/>`,
      )
    }
  }
  for (const [index, series] of plot.series.entries()) {
    const colour = COLOURS[index % COLOURS.length]
    const at = series.points.map((point) => [round(x.place(point.x)), round(y.place(point.y))] as const)
    if (plot.joined && at.length > 1) {
      parts.push(
        `<path d="M${at.map((pair) => pair.join(' ')).join('L')}" fill="none" stroke="${colour}" stroke-width="2"/>`,
      )
    }
    for (const [place, point] of series.points.entries()) {
      const [left, top] = at[place]!
      parts.push(
        `<circle cx="${left}" cy="${top}" r="4" fill="${colour}"><title>${escapeHtml(point.label)}</title></circle>`,
      )
    }
    const legend = SIZE.top + 16 + 18 * index
    parts.push(
      `<circle cx="${SIZE.left + 14}" cy="${legend - 4}" r="4" fill="${colour}"/>`,
      text([SIZE.left + 24, legend], 'start', series.name),
    )
  }
  parts.push(
    text([(SIZE.left + SIZE.width) / 2, SIZE.height - 10], 'middle', plot.x),
    text([14, SIZE.height / 2], 'middle', plot.y, ` transform="rotate(-90 14 ${SIZE.height / 2})"`),
  )
  return `<svg viewBox="0 0 ${SIZE.width} ${SIZE.height}" width="${SIZE.width}" height="${SIZE.height}" role="img">\n${parts.join('\n')}\n</svg>\n`
}

interface Axis {
  low: number
  high: number
  ticks: number[]
  place(value: number): number
}

function axis(values: readonly number[], logarithmic: boolean, from: number, to: number): Axis {
  let low = Math.min(...values)
  let high = Math.max(...values)
  if (logarithmic) {
    ;[low, high] = [low / 1.3, high * 1.3]
    const ticks: number[] = []
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of [1, 2, 5]) ticks.push(digit * 10 ** power)
    }
    const place = (value: number) =>
      from + ((Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (to - from)
    return { low, high, ticks: ticks.filter((tick) => tick >= low && tick <= high), place }
  }
  low = Math.min(0, low)
  if (high <= low) high = low + 1
  high += (high - low) * 0.04
  const rough = (high - low) / 6
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((candidate) => candidate >= rough)!
  const ticks = Array.from({ length: Math.floor(high / step) + 1 }, (_, index) => index * step)
  return { low, high, ticks, place: (value) => from + ((value - low) / (high - low)) * (to - from) }
}

const round = (value: number) => Math.round(value * 10) / 10
const label = (value: number) => String(Number(value.toPrecision(6)))

function escapeHtml(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
  return text.replace(/[&<>"]/g, (character) => names[character]!)
}
