/** The literals at which an answer turns to something else. */
import type { CallFormat, ChatFormat } from './format.ts'
import { matchAt } from './literals.ts'
import type { State } from './states.ts'

/** Within text. `mayCall`: a call may begin here. */
export function openings(
  { reasoning, textOpen, textClose, drop, calls }: ChatFormat,
  mayCall: boolean,
): [literal: string, what: State | 'drop'][] {
  return [
    [mayCall && calls ? calls.sectionOpen || calls.callOpen : '', 'call'],
    // A call of a section whose beginning the model left out.
    [mayCall && calls?.sectionOpen ? calls.callOpen : '', 'call'],
    [reasoning?.open ?? '', 'reasoning'],
    [textOpen, 'text'],
    [textClose, 'drop'],
    // The end of a reasoning that began before the answer, or never.
    [reasoning?.close ?? '', 'drop'],
    ...drop.map((literal): [string, 'drop'] => [literal, 'drop']),
  ]
}

/** Whether an answer is a call that nothing opens, { "name": ...; undefined while that is open. */
export function isBareCall(text: string, nameKey: string | undefined): boolean | undefined {
  const begun = text.replace(/\s/g, '').slice(0, 40)
  const wanted = `{"${nameKey ?? ''}`
  if (begun.startsWith(wanted)) return true
  return wanted.startsWith(begun) ? undefined : false
}

/**
 * What stands behind a call: the longest literal that does, and from where on what it leads to is read. 'partial': more
 * of one must come; undefined: none.
 */
export function behindCall(
  text: string,
  at: number,
  calls: CallFormat,
  { textClose, ended }: { textClose: string; ended: boolean },
): { from: number; state: State } | 'partial' | undefined {
  const options: [literal: string, state: State][] = [
    [calls.callClose, 'after'],
    [calls.sectionClose, 'text'],
    [calls.separator, 'call'],
    [calls.sectionOpen, 'call'],
    [calls.callOpen, 'call'],
    [textClose, 'after'],
  ]
  let found: { end: number; state: State } | undefined
  let opening = -1
  let isOpen = false
  for (const [literal, state] of options) {
    const match = literal === '' ? undefined : matchAt(text, at, literal)
    if (match === 'partial') isOpen = true
    if (typeof match !== 'number') continue
    if (literal === calls.callOpen) opening = match
    if (!found || match > found.end) found = { end: match, state }
  }
  if (isOpen && (!ended || !found)) return 'partial'
  // A call's own opening is read by the call.
  return found && { from: found.state === 'call' && found.end === opening ? at : found.end, state: found.state }
}
