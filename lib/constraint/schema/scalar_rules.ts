/** Sets of texts and of numbers -> rules, each made once. */
import { rawFragment } from '../bytes.ts'
import { type Dfa, isNothing } from '../dfa.ts'
import { distances, isElastic } from '../dfa_measures.ts'
import { type Listed, type Remainders, withRemainders } from '../integers.ts'
import { jsonFragment } from '../json_text.ts'
import { type NumberTexts, numberTexts } from '../number_texts.ts'
import type { NumberRange, NumberSet } from '../numbers.ts'
import type { Meter } from '../problems.ts'
import type { RuleSet } from '../rules.ts'
import { NO_TEXT, type Scalars, type TextSet } from './scalars.ts'

const INFINITY = Number.POSITIVE_INFINITY

export class ScalarRules {
  readonly #scalars: Scalars
  readonly #rules: RuleSet
  readonly #exponents: boolean
  readonly #meter: Meter
  readonly #textRules = new Map<Dfa, Map<string, number>>()
  readonly #forms = new Map<Dfa, Map<string, TextSet>>()
  readonly #distances = new Map<Dfa, number[]>()
  readonly #numberTexts = new Map<string, NumberTexts[]>()
  readonly #numberRules = new Map<string, number[]>()

  /** `exponents`: of integers. */
  constructor(scalars: Scalars, rules: RuleSet, exponents: boolean, meter: Meter) {
    this.#scalars = scalars
    this.#rules = rules
    this.#exponents = exponents
    this.#meter = meter
  }

  hasText = (set: TextSet) => !isNothing(this.#formOf(set).dfa)
  hasNumber = (set: NumberSet) => this.#parts(set).some((part) => this.#textsOf(part).length > 0)

  /** Rules of the texts, and of the numbers: one for each part of them, since together they would multiply. */
  of(texts: TextSet, numbers: NumberSet): number[] {
    const text = this.#textRule(texts)
    const parts = numbers.length === 0 ? [] : this.#parts(numbers)
    return [...(text === undefined ? [] : [text]), ...parts.flatMap((part) => this.#numberRule(part))]
  }

  /** The rule of texts that stand for themselves; undefined if there are none. */
  raw(set: TextSet): number | undefined {
    const { dfa, minimum, maximum } = this.#formOf(set)
    if (isNothing(dfa)) return undefined
    const counted = minimum > 0 || maximum !== INFINITY
    return this.#rules.automaton(
      this.#rules.declare(),
      rawFragment(dfa, this.#meter, { counted }),
      counted ? minimum : 0,
      counted ? maximum : INFINITY,
    )
  }

  /** What a set's automaton and bounds come to: bounds that are left are counted beside it. */
  #formOf(set: TextSet): TextSet {
    const { dfa, minimum, maximum } = set
    let known = this.#forms.get(dfa)
    if (!known) {
      known = new Map()
      this.#forms.set(dfa, known)
    }
    const key = `${minimum} ${maximum}`
    let form = known.get(key)
    if (!form) {
      form = this.#form(set)
      known.set(key, form)
    }
    return form
  }

  #form({ dfa, minimum, maximum }: TextSet): TextSet {
    const far = this.#far(dfa)
    const shortest = far[dfa.start]!
    if (minimum > maximum || isNothing(dfa) || shortest > maximum) return NO_TEXT
    // What is too long is always told by counting, what is too short only where any text can go on.
    if (minimum <= shortest) return { dfa, minimum: 0, maximum }
    if (isElastic(dfa, far)) return { dfa, minimum, maximum }
    const long = this.#scalars.whole({ dfa, minimum, maximum: INFINITY })
    return this.#form({ dfa: long, minimum: 0, maximum })
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
    const { dfa, minimum, maximum } = this.#formOf(set)
    if (isNothing(dfa)) return undefined
    const counted = minimum > 0 || maximum !== INFINITY
    let rules = this.#textRules.get(dfa)
    if (!rules) {
      rules = new Map()
      this.#textRules.set(dfa, rules)
    }
    const key = counted ? `${minimum} ${maximum}` : ''
    let rule = rules.get(key)
    if (rule === undefined) {
      rule = this.#rules.declare()
      const fragment = jsonFragment(dfa, { counted }, this.#meter)
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
      texts = numberTexts(part, this.#exponents, this.#meter)
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
