/** The size of a model, whatever its weights' bits. */
import { activeShare } from '../plan/program.ts'
import type { NamedProgram } from './program.ts'

const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0)

export interface ParameterCount {
  /** Weights and biases; a tied head counts once, and so does a matrix that stands for two. */
  all: number
  /** Without the experts that do not answer a token. */
  active: number
}

export function countParameters({ program, units }: NamedProgram, tied: boolean): ParameterCount {
  const count: ParameterCount = { all: program.vocab * sum(program.tables), active: 0 }
  count.active = count.all
  for (const [index, unit] of program.units.entries()) {
    const share = activeShare(program, unit)
    const counted = new Set<string>()
    const vectors = sum(unit.vectors)
    count.all += vectors
    count.active += vectors
    for (const [linear, { k }] of unit.linears.entries()) {
      for (const { module, rows, n, bias } of units[index]!.linears[linear]!) {
        const matrix = `${module} ${rows?.begin ?? 0}`
        if (counted.has(matrix)) continue
        counted.add(matrix)
        const weights = (unit.head && tied ? 0 : k * n) + (bias ? n : 0)
        count.all += weights
        count.active += weights * share(linear)
      }
    }
  }
  return count
}
