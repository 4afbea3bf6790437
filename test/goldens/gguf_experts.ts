/** Tensors of mixtures as llama.cpp's converter writes them: one of all experts, gate and up apart. */

/** Of one tensor. */
export interface Values {
  shape: number[]
  values: ArrayLike<number>
}

const OF_EXPERT = /^(model\.layers\.\d+\.\w+\.experts)\.(\d+)\.(\w+\.weight)$/
const FUSED = /^(model\.layers\.\d+\.mlp\.experts)\.(gate_up|down)_proj(_bias)?$/

/** The same tensors, those of experts stacked: `experts.gate_proj.weight` [experts, out, in]. */
export function stackExperts(tensors: ReadonlyMap<string, Values>): Map<string, Values> {
  const out = new Map<string, Values>()
  const stacks = new Map<string, Values[]>()
  for (const [name, tensor] of tensors) {
    const expert = OF_EXPERT.exec(name)
    const fused = FUSED.exec(name)
    if (expert) {
      const stack = `${expert[1]}.${expert[3]}`
      const parts = stacks.get(stack) ?? []
      stacks.set(stack, parts)
      parts[Number(expert[2])] = tensor
    } else if (fused) {
      for (const [part, apart] of takeApart(tensor, fused[2] as 'gate_up' | 'down', fused[3] !== undefined)) {
        out.set(`${fused[1]}.${part}_proj.${fused[3] ? 'bias' : 'weight'}`, apart)
      }
    } else {
      out.set(name, tensor)
    }
  }
  for (const [name, parts] of stacks) {
    const values = parts.flatMap((part) => [...(part.values as Float64Array)])
    out.set(name, { shape: [parts.length, ...parts[0]!.shape], values })
  }
  return out
}

/** gpt-oss's: input features first, gate and up by turns. */
function takeApart({ shape, values }: Values, of: 'gate_up' | 'down', bias: boolean): [string, Values][] {
  const [experts, inputs, outputs] = bias ? [shape[0]!, 1, shape[1]!] : (shape as [number, number, number])
  const parts = of === 'down' ? ['down'] : ['gate', 'up']
  const n = outputs / parts.length
  return parts.map((part, at): [string, Values] => {
    const apart: number[] = []
    for (let expert = 0; expert < experts; expert++) {
      for (let row = 0; row < n; row++) {
        for (let k = 0; k < inputs; k++) {
          apart.push(values[(expert * inputs + k) * outputs + row * parts.length + at]!)
        }
      }
    }
    return [part, { shape: bias ? [experts, n] : [experts, n, inputs], values: apart }]
  })
}
