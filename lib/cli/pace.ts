import type { LoadProgress } from '../options/model.ts'
import { formatBytes } from './format.ts'

/** Over so long a rate is taken. */
const WINDOW_MS = 5000

/** How fast bytes come, and how long the rest will take. */
export class Pace {
  readonly stage: string
  #points: { at: number; done: number }[] = []
  #rest = 0

  constructor(stage: string) {
    this.stage = stage
  }

  report({ done, total }: Pick<LoadProgress, 'done' | 'total'>, at = performance.now()): void {
    // What begins again has no pace yet.
    if (done < (this.#points.at(-1)?.done ?? 0)) this.#points = []
    this.#points.push({ at, done })
    while (this.#points.length > 2 && at - this.#points[1]!.at > WINDOW_MS) this.#points.shift()
    if (this.#points.length > 256) this.#points = this.#points.filter((_, index) => index % 2 === 0 || index === 255)
    this.#rest = total - done
  }

  /** '12.3 MB/s, 4 min left'; '' as long as nothing is known. */
  get text(): string {
    const first = this.#points[0]
    const last = this.#points.at(-1)
    if (first === undefined || last === undefined || last.at - first.at < 200 || last.done === first.done) return ''
    const rate = ((last.done - first.done) / (last.at - first.at)) * 1000
    return `${formatBytes(Math.round(rate))}/s, ${formatSeconds(this.#rest / rate)} left`
  }
}

export function formatSeconds(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`
  const minutes = Math.ceil(seconds / 60)
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
