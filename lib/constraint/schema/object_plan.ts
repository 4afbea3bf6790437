/** Objects: which names there are, and what each may be. */
import { ANY, accepts, type Dfa } from '../dfa.ts'
import { both, without } from '../dfa_algebra.ts'
import { fewTexts } from '../dfa_measures.ts'
import { type Meter, tooLarge } from '../problems.ts'
import { nameAutomaton, sortNames } from './members.ts'
import type { Scalars } from './scalars.ts'
import { type MemberSpec, type MemberWitness, numberOf, type ObjectShape } from './shapes.ts'
import { type Choice, choicesWith, type ObjectPlan, type Values } from './values.ts'

/** Members of one object that are named. */
const MAX_MEMBERS = 8000
/** Of names without one. */
const MAX_KINDS = 31
const MAX_WITNESSES = 6
/**
 * Where so few names are possible, or no more than there must be, each is a member, which comes once: of patterns, and of
 * what names must be.
 */
const FEW_BY_PATTERN = 128
const FEW_NAMES = 1000

export class ObjectPlanner {
  readonly #scalars: Scalars
  readonly #values: Values
  readonly #meter: Meter

  constructor(scalars: Scalars, values: Values, meter: Meter) {
    this.#scalars = scalars
    this.#values = values
    this.#meter = meter
  }

  plan(shape: ObjectShape): ObjectPlan {
    if (shape.witnesses.length > MAX_WITNESSES) throw tooLarge('too many conditions on properties without a name')
    if (shape.minimum > MAX_MEMBERS) throw tooLarge(`more than ${MAX_MEMBERS} properties of one object`)
    const mentioned = mentionedNames(shape)
    const apart = new Apart(shape, this.#scalars)
    for (const { dfa, few } of apart.automata) {
      for (const text of fewTexts(dfa, Math.max(few, shape.minimum)) ?? []) mentioned.add(text)
    }
    // Kinds of few names are known only when all are told apart.
    for (;;) {
      const names = sortNames(mentioned)
      if (names.length > MAX_MEMBERS) throw tooLarge(`more than ${MAX_MEMBERS} properties of one object`)
      const { plan, more } = this.#plan(shape, names, apart)
      if (more.length === 0) return plan
      for (const name of more) mentioned.add(name)
    }
  }

  #plan(shape: ObjectShape, names: readonly string[], apart: Apart): { plan: ObjectPlan; more: string[] } {
    const { witnesses } = shape
    const automata = apart.automata.map(({ dfa }) => dfa)
    const choices = (name: string | undefined, matches: (automaton: number) => boolean): Choice[] => {
      if (!apart.ofNames.every(matches)) return []
      const has = (source: string) => matches(apart.indexOf(`/${source}`))
      const unlike = (spec: MemberSpec) =>
        !(name !== undefined && spec.named.has(name)) && !spec.patterns.some(({ source }) => has(source))
      const literals = shape.specs.flatMap((spec) => {
        const own = name === undefined ? [] : (spec.named.get(name) ?? [])
        const matched = spec.patterns.filter(({ source }) => has(source)).flatMap(({ value }) => value)
        return [...own, ...matched, ...(unlike(spec) ? (spec.rest ?? []) : [])]
      })
      const fits = ({ name: which }: MemberWitness) => {
        if ('pattern' in which) return has(which.pattern)
        return 'unlike' in which ? unlike(which.unlike) : matches(apart.indexOf(`name ${numberOf(which.literal)}`))
      }
      return choicesWith(
        witnesses.flatMap((witness, index) => (fits(witness) ? [index] : [])),
        (own) => this.#values.of([...literals, ...own.flatMap((index) => witnesses[index]!.value)]),
        (index) => names.length + index,
      )
    }

    const named = names.map((name) => {
      if (shape.forbidden.has(name)) return []
      return choices(name, (index) => accepts(automata[index]!, name))
    })
    const more: string[] = []
    const kinds: ObjectPlan['kinds'] = []
    const automaton = nameAutomaton(
      names,
      automata,
      (name) => name,
      (kind) => {
        const own = choices(undefined, (index) => kind[index] === '1')
        if (own.length === 0) return -1
        // Where members must be so many, an object must not begin a name that it cannot end.
        if (shape.minimum > 0 || witnesses.length > 0)
          more.push(...this.#fewNames(kind, automata, names, shape.minimum))
        // Kinds of one meaning are one.
        const key = JSON.stringify(own)
        const known = kinds.findIndex((other) => other.key === key)
        if (known !== -1) return names.length + known
        if (kinds.length >= MAX_KINDS) throw tooLarge(`more than ${MAX_KINDS} kinds of property names`)
        return names.length + kinds.push({ key, choices: own }) - 1
      },
      this.#meter,
    )
    return { plan: { type: 'object', shape, names, named, automaton, kinds }, more }
  }

  /** The names of a kind that are not named, if they are few. */
  #fewNames(kind: string, automata: readonly Dfa[], names: readonly string[], minimum: number): string[] {
    if (!kind.includes('1')) return []
    let dfa = ANY
    automata.forEach((own, index) => {
      dfa = kind[index] === '1' ? both(dfa, own, this.#meter) : without(dfa, own, this.#meter)
    })
    const known = new Set(names)
    return (fewTexts(dfa, Math.max(FEW_BY_PATTERN, minimum) + names.length) ?? []).filter((name) => !known.has(name))
  }
}

function mentionedNames({ specs, required, forbidden, implications, witnesses }: ObjectShape): Set<string> {
  const out = new Set([...required, ...forbidden])
  for (const spec of specs) for (const name of spec.named.keys()) out.add(name)
  for (const [name, others] of implications) for (const one of [name, ...others]) out.add(one)
  for (const { name } of witnesses) if ('unlike' in name) for (const one of name.unlike.named.keys()) out.add(one)
  return out
}

/** Automata that tell names apart: one a pattern, and those of what names must be. */
class Apart {
  readonly automata: { dfa: Dfa; few: number }[] = []
  /** Those that every name must be of. */
  readonly ofNames: readonly number[]
  readonly #keys: string[] = []

  constructor({ names, specs, witnesses }: ObjectShape, scalars: Scalars) {
    const add = (key: string, few: number, make: () => Dfa) => {
      const known = this.#keys.indexOf(key)
      if (known !== -1) return known
      this.automata.push({ dfa: make(), few })
      return this.#keys.push(key) - 1
    }
    const pattern = (source: string) => add(`/${source}`, FEW_BY_PATTERN, () => scalars.pattern(source))
    this.ofNames = names.map((literal) =>
      add(`name ${numberOf(literal)}`, FEW_NAMES, () => scalars.whole(scalars.texts([literal]))),
    )
    for (const spec of specs) for (const { source } of spec.patterns) pattern(source)
    for (const { name } of witnesses) {
      if ('pattern' in name) pattern(name.pattern)
      else if ('unlike' in name) for (const { source } of name.unlike.patterns) pattern(source)
      else add(`name ${numberOf(name.literal)}`, FEW_NAMES, () => scalars.whole(scalars.texts([name.literal])))
    }
  }

  indexOf(key: string): number {
    return this.#keys.indexOf(key)
  }
}
