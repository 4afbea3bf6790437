/** Which values there are after all: those that no requirement of others, or of themselves, rules out. */
import type { Meter } from '../problems.ts'
import type { ScalarRules } from './scalar_rules.ts'
import { type ArrayPlan, type Choice, choicesOf, type ObjectPlan, type Value, type Values } from './values.ts'

export class Possible {
  readonly #values: Values
  readonly #scalarRules: ScalarRules
  readonly #meter: Meter

  constructor(values: Values, scalarRules: ScalarRules, meter: Meter) {
    this.#values = values
    this.#scalarRules = scalarRules
    this.#meter = meter
  }

  /** Sets `isPossible` of all values. */
  find(): void {
    for (const value of this.#values.list) {
      for (const plan of [...value.objects, ...value.arrays]) {
        for (const { value: used } of choicesOf(plan)) this.#values.list[used]!.users.add(value)
      }
    }
    const open = [...this.#values.list]
    const tried = new Set<Value>()
    for (let value = open.pop(); value; value = open.pop()) {
      this.#meter.spend(10)
      if (value.isPossible) continue
      const isPossible = (!tried.has(value) && this.#isScalar(value)) || this.#isStructure(value)
      tried.add(value)
      if (!isPossible) continue
      value.isPossible = true
      open.push(...value.users)
    }
  }

  #isScalar({ texts, numbers, constants }: Value): boolean {
    return constants.length > 0 || this.#scalarRules.hasText(texts) || this.#scalarRules.hasNumber(numbers)
  }

  #isStructure({ objects, arrays }: Value): boolean {
    return objects.some((plan) => this.object(plan)) || arrays.some((plan) => this.array(plan))
  }

  may = ({ value }: Choice) => this.#values.list[value]!.isPossible

  object({ shape, names, named, kinds }: ObjectPlan): boolean {
    const { required, minimum, maximum, implications, witnesses } = shape
    const isThere = (name: string) => named[names.indexOf(name)]?.some(this.may) === true
    const needed = new Set(required)
    for (let size = -1; size !== needed.size; ) {
      size = needed.size
      for (const [name, others] of implications) if (needed.has(name)) for (const other of others) needed.add(other)
    }
    if (needed.size > maximum || ![...needed].every(isThere)) return false
    const others = kinds.filter(({ choices }) => choices.some(this.may))
    const can = (bit: number) =>
      [...named, ...others.map(({ choices }) => choices)].some((choices) =>
        choices.some((choice) => choice.sets.includes(bit) && this.may(choice)),
      )
    if (!witnesses.every((_, index) => can(names.length + index))) return false
    if (witnesses.length > 0 && maximum === 0) return false
    // Kinds whose names are few have been named.
    return others.length > 0 || named.filter((choices) => choices.some(this.may)).length >= minimum
  }

  array(plan: ArrayPlan): boolean {
    const { shape, bits } = plan
    const longest = this.longest(plan)
    if (longest < shape.minimum) return false
    if (bits === 0) return true
    if (longest === 0) return false
    return Array.from({ length: bits }, (_, bit) => bit).every((bit) =>
      [...plan.places.slice(0, longest), ...(longest > plan.places.length && plan.rest ? [plan.rest] : [])].some(
        (choices) => choices.some((choice) => choice.sets.includes(bit) && this.may(choice)),
      ),
    )
  }

  /** Items that an array can have. */
  longest({ shape, places, rest }: ArrayPlan): number {
    const short = places.findIndex((choices) => !choices.some(this.may))
    if (short !== -1) return short
    return rest?.some(this.may) ? shape.maximum : Math.min(places.length, shape.maximum)
  }
}
