/** How a model writes an answer: where reasoning stands, how calls of tools are written. Plain data, which threads can be sent. */

/** Literals are without white space around them; where they have some within, any amount of it is read. */
interface Calls {
  /** Before the first call and behind the last one; '' where there is nothing. */
  sectionOpen: string
  sectionClose: string
  /** Around each call. */
  callOpen: string
  callClose: string
  /** Between calls, such as the comma of a list. */
  separator: string
  /** Calls begin at the beginning of a message alone, since their literal could stand in a text. */
  atStart?: boolean
}

/** A JSON object that has the name and the arguments. */
export interface ObjectCalls extends Calls {
  shape: 'object'
  /** undefined: the name is the key of the arguments, { get_weather: { ... } }. */
  nameKey: string | undefined
  argumentsKey: string
  idKey: string | undefined
}

/** The name, then its arguments in one piece. */
export interface NamedCalls extends Calls {
  shape: 'name+json'
  /** Between name and arguments; or between name and id, and id and arguments. */
  nameClose: string
  idClose: string | undefined
  /** How arguments are written: JSON, Gemma's {a:<|"|>text<|"|>}, or Python's (a='text', b=1). */
  syntax: 'json' | 'gemma' | 'python'
  /** Finds the tool's name in what a model writes; which is the call's id too, where `isId`. */
  written?: { name: RegExp; isId: boolean }
  /** A name that means the user: what follows is text. */
  textName?: string
}

/** The name, then a tag for each argument. */
export interface TaggedCalls extends Calls {
  shape: 'tagged'
  nameClose: string
  /** What ends a part behind nameClose that is passed over: the name again, or a number. */
  nameEnd?: string
  nameAgain?: boolean
  keyOpen: string
  /** Between key and value, as it is written. */
  keyClose: string
  /** Where the tag names a value's type: what stands behind it, what it is for texts, and for all others if that is one word. */
  type: { close: string; text: string; other?: string } | undefined
  valueClose: string
  /** What texts alone are wrapped in. */
  textWrap: { open: string; close: string } | undefined
}

export type CallFormat = ObjectCalls | NamedCalls | TaggedCalls

export interface ChatFormat {
  reasoning: { open: string; close: string } | undefined
  /** Around the answer's text; '' where there is nothing. */
  textOpen: string
  textClose: string
  /** Answers begin with white space that is none of theirs. */
  leadingSpace: boolean
  /** What else may stand in an answer and says nothing, such as the end of a turn. */
  drop: readonly string[]
  calls: CallFormat | undefined
}
