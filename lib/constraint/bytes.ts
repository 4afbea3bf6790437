/** Automata over code points -> rules of their texts as they are; json_text.ts has those within JSON. */
import { runsOf } from './classes.ts'
import type { Dfa } from './dfa.ts'
import { distances } from './dfa_measures.ts'
import type { Meter } from './problems.ts'
import type { Fragment } from './rules.ts'
import { Encoder } from './utf8.ts'

/** The texts themselves, and the calls that stand beside them. */
export function rawFragment(
  dfa: Dfa,
  meter: Meter,
  { calls, counted = false }: { calls?: readonly (readonly number[])[]; counted?: boolean } = {},
): Fragment {
  const far = counted ? distances(dfa) : undefined
  const encoder = new Encoder(dfa.arcs.length, meter, far)
  const runs = runsOf(dfa, meter, { alone: counted })
  dfa.arcs.forEach((arcs, state) => {
    const own = encoder.states[state]!
    own.edges = encoder.edges(arcs)
    if (calls?.[state]?.length) own.calls = [...calls[state]!]
    if (dfa.accepts[state]) own.accepts = true
    if (far) own.needs = far[state]!
    own.run = runs[state]!
  })
  return { states: encoder.states, start: dfa.start }
}
