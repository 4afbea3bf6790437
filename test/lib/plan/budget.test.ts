import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Home } from '../../../lib/binding.ts'
import type { PlacementHome } from '../../../lib/options/model.ts'
import { withinBudget } from '../../../lib/plan/budget.ts'
import { type ModelPlan, makePlan } from '../../../lib/plan/plan.ts'
import { gpu, machine, program, slabs } from './fixture.ts'

const planned = (placement: PlacementHome | PlacementHome[]): ModelPlan =>
  makePlan(
    program,
    slabs,
    { device: 'cuda', placement, contextLength: 64, maxSequences: 1 },
    { ...machine, gpus: [gpu] },
  )

test('whatever the budget: within it, evenly spread, more of it never means less residency', () => {
  const plan = planned('streamed')
  const all = plan.kvBytes + plan.workspaceBytes
  const largest = all + 2 ** 21 * plan.units.length
  let before = -1
  for (let step = 0; step <= 60; step++) {
    const budget = all + ((largest - all) * step) / 60
    let placed: ReturnType<typeof withinBudget>
    try {
      placed = withinBudget(plan, undefined, budget)
    } catch (error) {
      expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' })
      expect(before).toBe(-1)
      continue
    }
    expect(placed.residentBytes + placed.ringBytes).toBeLessThanOrEqual(budget - all)
    const resident = placed.homes.filter((home) => home === 'resident').length
    expect(resident).toBeGreaterThanOrEqual(before)
    before = resident
    const layers = placed.homes.slice(0, -1)
    // No half of the pass has more than one resident unit more than the other.
    const half = layers.length / 2
    const count = (homes: Home[]) => homes.filter((home) => home === 'resident').length
    expect(Math.abs(count(layers.slice(0, half)) - count(layers.slice(half)))).toBeLessThanOrEqual(1)
  }
  expect(before).toBe(plan.units.length)
  expect(withinBudget(plan, undefined, largest).ringBytes).toBe(0)
})

test('units of the CPU and of the arena stay where they are', () => {
  const home = fc.constantFrom<PlacementHome>('resident', 'streamed', 'cpu', 'shared')
  fc.assert(
    fc.property(fc.array(home, { minLength: 8, maxLength: 8 }), fc.integer({ min: 0, max: 2 ** 25 }), (homes, room) => {
      const placement = [
        ...homes.map((home, index) => (home === 'cpu' && index % 2 === 0 ? 'streamed' : home)),
        'resident',
      ]
      const plan = planned(placement as PlacementHome[])
      const budget = plan.kvBytes + plan.workspaceBytes + 2 ** 22 + room
      const found = withinBudget(plan, undefined, budget).homes
      for (const [index, home] of found.entries()) {
        const was = plan.units[index]!.home
        if (was === 'cpu' || was === 'shared') expect(home).toBe(was)
        else expect(['resident', 'streamed']).toContain(home)
      }
    }),
  )
})
