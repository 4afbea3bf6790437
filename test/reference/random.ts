/**
 * Seeded random numbers that come out the same on every machine: integer arithmetic and exactly rounded operations
 * only, no transcendental functions.
 */
export class Random {
  private state: number

  constructor(seed: number) {
    this.state = seed >>> 0
  }

  /** Uniform in [0, 1), a multiple of 2^-32 (mulberry32). */
  uniform(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let t = this.state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  /** Uniform in low..high, both included. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low + 1))
  }

  /** Mean 0, standard deviation 1, nearly normal: the sum of six uniforms. */
  normal(): number {
    let sum = -3
    for (let i = 0; i < 6; i++) sum += this.uniform()
    return sum * Math.SQRT2
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.integer(0, choices.length - 1)]!
  }

  /** A permutation of 0..n-1. */
  permutation(n: number): number[] {
    const order = Array.from({ length: n }, (_, i) => i)
    for (let i = n - 1; i > 0; i--) {
      const j = this.integer(0, i)
      ;[order[i], order[j]] = [order[j]!, order[i]!]
    }
    return order
  }
}
