/** The size of a model, whatever its weights' bits. */
import type { NamedProgram } from './program.ts'

const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0)

/** Weights and biases; a tied head counts once. */
export function countParameters({ program, units }: NamedProgram, tied: boolean): number {
  const counts = program.units.map(({ vectors, head }, index) => {
    const linears = program.units[index]!.linears.map(({ k, parts }) => (head && tied ? 0 : k * sum(parts)))
    const biases = units[index]!.linears.flat().map(({ bias, n }) => (bias ? n : 0))
    return sum(vectors) + sum(linears) + sum(biases)
  })
  return program.vocab * sum(program.tables) + sum(counts)
}
