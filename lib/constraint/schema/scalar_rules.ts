/** Sets of texts and of numbers -> rules, each made once. */
import { jsonFragment, rawFragment } from '../bytes.ts'
import { type Dfa, distances, isElastic, isNothing, NOTHING } from '../dfa.ts'
import { type Listed, type Remainders, withRemainders } from '../integers.ts'
import { type NumberRange, type NumberSet, type NumberTexts, numberTexts } from '../numbers.ts'
import type { Meter } from '../problems.ts'
import type { RuleSet } from '../rules.ts'
import type { Scalars, TextSet } from './scalars.ts'

const INFINITY = Number.POSITIVE_INFINITY

export class ScalarRules {
  readonly #scalars: Scalars
  readonly #rules: RuleSet
  readonly #meter: Meter
  readonly #textRules = new Map<Dfa, Map<string, number>>()
  readonly #bounded = new Map<Dfa, Map<string, Dfa>>()
  readonly #distances = new Map<Dfa, number[]>()
  readonly #numberTexts = new Map<string, NumberTexts[]>()
  readonly #numberRules = new Map<string, number[]>()

  constructor(scalars: Scalars, rules: RuleSet, meter: Meter) {
    this.#scalars = scalars
    this.#rules = rules
    this.#meter = meter
  }

  hasText = (set: TextSet) => !isNothing(this.#dfaOf(set))
  hasNumber = (set: NumberSet) => this.#parts(set).some((part) => this.#textsOf(part).length > 0)

  /** Rules of the texts, and of the numbers: one for each part of them, since together they would multiply. */
  of(texts: TextSet, numbers: NumberSet): number[] {
    const text = this.#textRule(texts)
    const parts = numbers.length === 0 ? [] : this.#parts(numbers)
    return [...(text === undefined ? [] : [text]), ...parts.flatMap((part) => this.#numberRule(part))]
  }

  /** What an automaton and bounds of length come to: the automaton itself, where counting beside it is enough. */
  #dfaOf(set: TextSet): Dfa {
    const { dfa, minimum, maximum } = set
    let known = this.#bounded.get(dfa)
    if (!known) {
      known = new Map()
      this.#bounded.set(dfa, known)
    }
    const key = `${minimum} ${maximum}`
    let own = known.get(key)
    if (!own) {
      own = this.#make(set)
      known.set(key, own)
    }
    return own
  }

  #make({ dfa, minimum, maximum }: TextSet): Dfa {
    if (minimum > maximum || isNothing(dfa)) return NOTHING
    if ((minimum === 0 && maximum === INFINITY) || isElastic(dfa, this.#far(dfa))) {
      return this.#far(dfa)[dfa.start]! > maximum ? NOTHING : dfa
    }
    return this.#scalars.whole({ dfa, minimum, maximum })
  }

  #far(dfa: Dfa): number[] {
    let far = this.#distances.get(dfa)
    if (!far) {
      far = distances(dfa)
      this.#distances.set(dfa, far)
    }
    return far
  }

  #textRule(set: TextSet): number | undefined {
    const { minimum, maximum } = set
    const own = this.#dfaOf(set)
    if (isNothing(own)) return undefined
    const counted = (minimum > 0 || maximum !== INFINITY) && own === set.dfa
    let rules = this.#textRules.get(own)
    if (!rules) {
      rules = new Map()
      this.#textRules.set(own, rules)
    }
    const key = counted ? `${minimum} ${maximum}` : ''
    let rule = rules.get(key)
    if (rule === undefined) {
      rule = this.#rules.declare()
      const fragment = jsonFragment(own, { counted }, this.#meter)
      if (counted) this.#rules.automaton(rule, fragment, minimum, maximum)
      else this.#rules.automaton(rule, fragment)
      rules.set(key, rule)
    }
    return rule
  }

  #parts(set: NumberSet): (NumberRange | Remainders | Listed)[] {
    const { ranges, integers } = withRemainders(set)
    return [...ranges, ...integers]
  }

  #textsOf(part: NumberRange | Remainders | Listed): NumberTexts[] {
    const key = JSON.stringify(part)
    let texts = this.#numberTexts.get(key)
    if (!texts) {
      texts = numberTexts(part, this.#meter)
      this.#numberTexts.set(key, texts)
    }
    return texts
  }

  #numberRule(part: NumberRange | Remainders | Listed): number[] {
    const key = JSON.stringify(part)
    let rules = this.#numberRules.get(key)
    if (!rules) {
      rules = this.#textsOf(part).map(({ dfa, maximum }) => {
        const fragment = rawFragment(dfa, this.#meter, { counted: maximum !== INFINITY })
        return this.#rules.automaton(this.#rules.declare(), fragment, 0, maximum)
      })
      this.#numberRules.set(key, rules)
    }
    return rules
  }
}
