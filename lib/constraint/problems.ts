/** What is wrong with a constraint, and the bound of what compiling one may take. */
import { MillraceError } from '../errors.ts'

export function unsupported(what: string, remedy?: string): MillraceError {
  return new MillraceError('CONSTRAINT_UNSUPPORTED', {
    message: `${what} is not supported`,
    ...(remedy === undefined ? {} : { remedy }),
  })
}

export const invalid = (message: string) => new MillraceError('CONSTRAINT_INVALID', { message })

export const tooLarge = (what: string) =>
  new MillraceError('CONSTRAINT_TOO_LARGE', { message: `the constraint takes ${what}` })

/** Steps of any kind, some tens of nanoseconds each. */
const MAX_STEPS = 20_000_000
/** Of all automata together. */
export const MAX_STATES = 400_000

export interface Cost {
  steps: number
  states: number
}

/**
 * Counts what compiling takes, so that the worst of constraints ends soon; no clock, so that the same constraint ends the same
 * way on a machine that is busy. Throws CONSTRAINT_TOO_LARGE.
 */
export class Meter {
  #steps = 0
  #states = 0

  /** So far. */
  get spent(): Cost {
    return { steps: this.#steps, states: this.#states }
  }

  /** Of what is known from an earlier constraint: it counts as if it were made again, so that no bound depends on others. */
  again({ steps, states }: Cost): void {
    this.#states += states
    this.spend(steps)
    if (this.#states > MAX_STATES) throw tooLarge(`more than ${MAX_STATES} states`)
  }

  spend(steps: number): void {
    this.#steps += steps
    if (this.#steps > MAX_STEPS) throw tooLarge('too many steps to compile')
  }

  states(count: number): void {
    this.#states += count
    this.spend(10 * count)
    if (this.#states > MAX_STATES) throw tooLarge(`more than ${MAX_STATES} states`)
  }
}
