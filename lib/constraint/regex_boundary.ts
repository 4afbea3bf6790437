/** \b and \B as what stands before and behind. */
import type { CharSet } from './charset.ts'
import type { RegexNode } from './regex_parser.ts'

/** Between a word's character and another; or not. */
export function boundary(negative: boolean, word: CharSet): RegexNode {
  const look = (behind: boolean, isWord: boolean): RegexNode => ({
    type: 'look',
    behind,
    negative: !isWord,
    item: { type: 'set', set: word },
  })
  const way = (before: boolean, after: boolean): RegexNode => ({
    type: 'sequence',
    items: [look(true, before), look(false, after)],
  })
  return { type: 'choice', items: [way(true, negative), way(false, !negative)] }
}
