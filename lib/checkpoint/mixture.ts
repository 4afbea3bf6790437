/** Mixtures of experts: in the place of a layer's feed-forward a router, the experts that it chooses from, and what all tokens share. */
import type { ExpertParts, ExpertStack, LinearPart, ProgramBuilder, UnitBuilder } from './program.ts'

export interface MixtureShape {
  experts: number
  /** Of them, those that answer a token. */
  chosen: number
  /** Features within an expert. */
  width: number
  /** Of the router's logits, over all experts. */
  score: 'softmax' | 'sigmoid'
  /** The scores of the chosen ones are divided by their sum. */
  renormalise: boolean
  /** And multiplied by this. */
  scale?: number
  /** Experts are in so many groups, and come from the best few of them: by their two best scores, or with `best` by one. */
  groups?: { count: number; chosen: number; best?: 1 }
  /** gpt-oss's activation; SiLU of the gate times up where it is left out. */
  clamped?: { alpha: number; limit: number }
  /** Names within a layer. */
  names: MixtureNames
  /** The router has a bias, and the experts have. */
  routerBias?: boolean
  expertBiases?: boolean
  /** A feed-forward for every token, of so many features; `gate`: name of a linear that says how much of it. */
  shared?: { module: string; width: number; gate?: string }
}

export interface MixtureNames {
  router: string
  /** Of numbers that are added to scores for the choice alone. */
  selectBias?: string
  /** Before the number of an expert. */
  experts: string
  gate: string
  up: string
  down: string
  /**
   * One tensor for gate and up of all experts, beside `down`: one after the other or by turns, input features before output
   * features or after them.
   */
  fused?: { gateUp: string; interleaved: boolean; transposed: boolean }
}

/** As most have them. */
export const EXPERTS: MixtureNames = {
  router: 'mlp.gate',
  experts: 'mlp.experts',
  gate: 'gate_proj',
  up: 'up_proj',
  down: 'down_proj',
}

/** The value that holds what the mixture computes of `from`. `prefix`: of the layer. */
export function buildMixture(
  builder: ProgramBuilder,
  unit: UnitBuilder,
  from: number,
  prefix: string,
  shape: MixtureShape,
  hidden: number,
): number {
  const { experts, chosen, names, shared, clamped, groups, scale = 1 } = shape
  const scores = builder.value('router', experts)
  const routes = builder.value('routes', 2 * chosen)
  const mixed = builder.value('mixed', hidden)
  const { routerBias: bias = false } = shape
  unit.linear(from, scores, [{ module: `${prefix}.${names.router}`, n: experts, bias, stays: true }])
  const { selectBias } = names
  unit.op({
    op: 'route',
    in: scores,
    out: routes,
    experts,
    topK: chosen,
    score: shape.score,
    ...(selectBias === undefined ? {} : { selectBias: unit.vector(`${prefix}.${selectBias}`, experts) }),
    ...(groups
      ? { groups: groups.count, topGroups: groups.chosen, ...(groups.best ? { groupBest: groups.best } : {}) }
      : {}),
    ...(shape.renormalise ? { renormalise: true } : {}),
    ...(scale === 1 ? {} : { scale }),
  })
  let projected: number | undefined
  if (shared) {
    const activated = builder.value('activated', shared.width)
    projected = builder.value('projected', hidden)
    const part = (name: string, n: number): LinearPart => ({ module: `${prefix}.${shared.module}.${name}`, n })
    unit.glu(from, activated, part('gate_proj', shared.width), part('up_proj', shared.width), 'silu')
    unit.linear(activated, projected, [part('down_proj', hidden)])
    if (shared.gate !== undefined) {
      const [gate, gated] = [builder.value('shared gate', 1), builder.value('shared', hidden)]
      unit.linear(from, gate, [{ module: `${prefix}.${shared.gate}`, n: 1, stays: true }])
      unit.op({ op: 'gate', in: gate, scalar: true, by: projected, begin: 0, out: gated, activation: 'sigmoid' })
      projected = gated
    }
  }
  // Last of the unit's weights: what comes before them can lie elsewhere.
  const parts = Array.from({ length: experts }, (_, index) => expertParts(prefix, index, shape, hidden))
  unit.experts(
    from,
    routes,
    mixed,
    parts,
    clamped ? { activation: 'clampedSwiglu', ...clamped } : { activation: 'silu' },
  )
  if (projected !== undefined) unit.op({ op: 'add', in: projected, out: mixed })
  return mixed
}

/** By its own tensors, or by the tensors of all experts where the file has those. */
function expertParts(prefix: string, index: number, shape: MixtureShape, hidden: number): ExpertParts {
  const { width, names, expertBiases: bias = false } = shape
  const list = `${prefix}.${names.experts}`
  const { fused } = names
  const transposed = fused?.transposed ? { transposed: true } : {}
  const part = (name: string, n: number, more: ExpertStack[]): LinearPart => ({
    module: `${list}.${index}.${name}`,
    n,
    bias,
    stacks: [{ module: `${list}.${name}`, index, ...(more.length === 0 ? transposed : {}) }, ...more],
  })
  const half = (at: number): ExpertStack[] => {
    if (!fused) return []
    const rows = fused.interleaved ? { begin: at, of: 2 * width, step: 2 } : { begin: at * width, of: 2 * width }
    return [{ module: `${list}.${fused.gateUp}`, index, rows, ...transposed }]
  }
  return {
    gate: part(names.gate, width, half(0)),
    up: part(names.up, width, half(1)),
    down: part(names.down, hidden, []),
  }
}
