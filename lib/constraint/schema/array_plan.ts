/** Arrays: what each place may be. */
import { tooLarge, unsupported } from '../problems.ts'
import type { ArrayShape } from './shapes.ts'
import { type ArrayPlan, choicesWith, type Values } from './values.ts'

const MAX_PLACES = 4000
const MAX_WITNESSES = 6

export function planArray(shape: ArrayShape, values: Values): ArrayPlan {
  const { specs, witnesses } = shape
  if (shape.unique && shape.maximum > 1) throw unsupported("the keyword 'uniqueItems' of JSON schemas")
  if (witnesses.length > MAX_WITNESSES) throw tooLarge("too many 'contains' of one array")
  const count = Math.max(0, ...specs.map(({ places }) => places.length), ...witnesses.map(({ from }) => from))
  if (Math.min(count, shape.maximum) > MAX_PLACES) throw tooLarge(`more than ${MAX_PLACES} places of one array`)
  const choices = (place: number) => {
    const literals = specs.flatMap(({ places, rest }) => (place < places.length ? places[place]! : (rest ?? [])))
    const bits = witnesses.flatMap(({ from }, index) => (from <= place ? [index] : []))
    return choicesWith(
      bits,
      (own) => values.of([...literals, ...own.flatMap((index) => witnesses[index]!.value)]),
      (index) => index,
    )
  }
  return {
    type: 'array',
    shape,
    places: Array.from({ length: Math.min(count, shape.maximum) }, (_, place) => choices(place)),
    rest: shape.maximum > count ? choices(count) : undefined,
    bits: witnesses.length,
  }
}
