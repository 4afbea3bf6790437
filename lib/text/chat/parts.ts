/** The parts of an answer as they are handed on. */

export type Part<Reason extends string = string> =
  | { type: 'text' | 'reasoning'; text: string }
  | { type: 'call'; index: number; id: string; name: string }
  /** A piece of the arguments' JSON. */
  | { type: 'arguments'; index: number; text: string }
  | { type: 'finish'; reason: Reason }

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

/** Nine letters and digits, which Mistral's templates ask for. */
export const randomId = () =>
  Array.from({ length: 9 }, () => LETTERS[Math.floor(Math.random() * LETTERS.length)]).join('')

/** Pieces of one kind that follow each other are one part. */
export class Parts {
  /** White space is left out until something else comes. */
  fresh = false
  /** Anything of the answer has been handed on. */
  begun = false
  /** Of the last call. */
  name = ''
  readonly #newId: () => string
  #list: Part[] = []
  #index = -1

  constructor(newId: () => string) {
    this.#newId = newId
  }

  /** Those since the last time. */
  take(): Part[] {
    const list = this.#list
    this.#list = []
    return list
  }

  say(type: 'text' | 'reasoning', text: string): void {
    const said = this.fresh ? text.trimStart() : text
    if (said === '') return
    this.fresh = false
    this.begun = true
    const last = this.#list.at(-1)
    if (last?.type === type) last.text += said
    else this.#list.push({ type, text: said })
  }

  begin(name: string, id = this.#newId()): void {
    this.#index++
    this.begun = true
    this.name = name
    this.#list.push({ type: 'call', index: this.#index, id, name })
  }

  argue(text: string): void {
    if (text === '') return
    const last = this.#list.at(-1)
    if (last?.type === 'arguments') last.text += text
    else this.#list.push({ type: 'arguments', index: this.#index, text })
  }
}
