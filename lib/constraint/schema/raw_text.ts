/** The texts that a schema lets be, as they stand between tags -> a rule. */
import { ANY, type Dfa } from '../dfa.ts'
import { both, without } from '../dfa_algebra.ts'
import type { Meter } from '../problems.ts'
import { regexDfa } from '../regex.ts'
import type { RuleSet } from '../rules.ts'
import type { Body } from '../task.ts'
import { Nodes } from './nodes.ts'
import { ScalarRules } from './scalar_rules.ts'
import { Scalars } from './scalars.ts'
import { holds } from './shapes.ts'

/** undefined: there is no such text. */
export function rawTexts(body: Extract<Body, { type: 'raw' }>, rules: RuleSet, meter: Meter): number | undefined {
  const nodes = new Nodes(body.schema)
  const scalars = new Scalars(nodes, meter)
  const asked = scalars.texts([holds(nodes.root)])
  const unwanted: Dfa[] = [
    ...body.without.map((literal) => regexDfa(escaped(literal), 'anywhere', {}, meter)),
    ...body.unlike.map((source) => regexDfa(source, 'whole', {}, meter)),
  ]
  const dfa = unwanted.reduce((all, one) => both(all, without(ANY, one, meter), meter), asked.dfa)
  return new ScalarRules(scalars, rules, false, meter).raw({ ...asked, dfa })
}

const escaped = (text: string) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
