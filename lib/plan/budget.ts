/** Residency that moves while a model serves: setBudget(). */
import type { Home, NativeUnit } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import type { PlanOptions } from '../options/model.ts'
import { deviceIndices, homesOfShare, joinHomes, sharesOf } from './devices.ts'
import { headHomes, type Placed, place, spread } from './homes.ts'
import { megabytes, megabytesOf } from './megabytes.ts'
import type { ModelPlan } from './plan.ts'

/**
 * Homes within other budgets of device memory, one a device: units move between resident and streamed, as many resident
 * as then fit, evenly over the pass; those of the CPU and of the arena stay. KV cache and workspace keep their size.
 * Throws OUT_OF_MEMORY where these and the ring alone take more. 'least': as little as there is a way for.
 */
export function withinBudgets(
  plan: ModelPlan,
  ring: PlanOptions['ring'],
  budgets: readonly number[] | 'least',
): { homes: Home[]; rings: number[] } {
  const devices = plan.devices.map(({ device }) => device)
  const shares = sharesOf(plan.units, devices, deviceIndices(plan))
  const homes = plan.units.map(({ home }) => home)
  const placed = shares.map((share, at) => {
    const own = homesOfShare(share, homes)
    const units = share.units.map((unit, index) => ({ ...unit, home: own[index]! }))
    return withinBudget({ ...plan.devices[at]!, units }, ring, budgets === 'least' ? budgets : budgets[at]!)
  })
  return {
    homes: joinHomes(
      shares,
      placed.map((one) => one.homes),
    ),
    rings: placed.map(({ ringBytes }) => ringBytes),
  }
}

type Budgeted = Pick<ModelPlan, 'kvBytes' | 'workspaceBytes'> & { units: readonly (NativeUnit & { home: Home })[] }

/** Of one device. */
export function withinBudget(plan: Budgeted, ring: PlanOptions['ring'], budget: number | 'least'): Placed {
  const movable = plan.units.flatMap(({ home, kind }, index) =>
    kind !== 'head' && (home === 'resident' || home === 'streamed') ? [index] : [],
  )
  const moved = (head: Home, resident: number): Placed => {
    const homes = plan.units.map((unit) => (unit.kind === 'head' && movesHead(unit.home) ? head : unit.home))
    const words = spread({ resident, streamed: movable.length - resident })
    for (const [at, index] of movable.entries()) homes[index] = words[at]!
    return place(plan.units, homes, ring, true)
  }
  const bytes = ({ residentBytes, ringBytes }: Placed) => residentBytes + ringBytes
  if (budget === 'least') {
    return headHomes(plan.units, ring)
      .map((head) => moved(head, 0))
      .reduce((a, b) => (bytes(b) < bytes(a) ? b : a))
  }
  const room = budget - plan.kvBytes - plan.workspaceBytes
  // The head is worth most: it takes no part in the ring while it is resident.
  for (const head of headHomes(plan.units, ring)) {
    for (let resident = movable.length; resident >= 0; resident--) {
      const placed = moved(head, resident)
      if (bytes(placed) <= room) return placed
    }
  }
  const least = moved('resident', 0)
  const { sum, parts } = megabytesOf({
    'KV cache': plan.kvBytes,
    workspace: plan.workspaceBytes,
    ring: least.ringBytes,
    'resident head': least.residentBytes,
  })
  throw new MillraceError('OUT_OF_MEMORY', {
    message: `the model needs at least ${sum} of memory on the GPU (${parts}), the budget is ${megabytes(budget)}`,
    remedy: 'give a larger budget, or load the model with a smaller contextLength or kvTokens',
  })
}

const movesHead = (home: Home) => home === 'resident' || home === 'streamed'
