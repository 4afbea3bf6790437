/** The size of a model, whatever its weights' bits. */
import type { NamedProgram } from './program.ts'

const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0)

/** Weights and biases; a tied head counts once, and so does a matrix that stands for two. */
export function countParameters({ program, units }: NamedProgram, tied: boolean): number {
  const counts = program.units.map(({ vectors, head }, index) => {
    const counted = new Set<string>()
    const linears = program.units[index]!.linears.flatMap(({ k }, linear) =>
      units[index]!.linears[linear]!.map(({ module, rows, n, bias }) => {
        const matrix = `${module} ${rows?.begin ?? 0}`
        if (counted.has(matrix)) return 0
        counted.add(matrix)
        return (head && tied ? 0 : k * n) + (bias ? n : 0)
      }),
    )
    return sum(vectors) + sum(linears)
  })
  return program.vocab * sum(program.tables) + sum(counts)
}
