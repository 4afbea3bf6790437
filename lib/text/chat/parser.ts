/** An answer as it is written -> its parts: text, reasoning, calls of tools. */
import type { CallFormat, ChatFormat, NamedCalls, TaggedCalls } from './format.ts'
import { findFirst, matchAt, skipSpace } from './literals.ts'
import { ObjectReader, ValueReader } from './object_reader.ts'
import type { Tool } from './types.ts'
import { gemmaJson, looseJson, pythonCalls } from './values.ts'

export type Part<Reason extends string = string> =
  | { type: 'text' | 'reasoning'; text: string }
  | { type: 'call'; index: number; id: string; name: string }
  /** A piece of the arguments' JSON. */
  | { type: 'arguments'; index: number; text: string }
  | { type: 'finish'; reason: Reason }

export interface ChatParserOptions {
  /** Their schemas tell texts from numbers where a format does not. */
  tools?: readonly Tool[] | undefined
  /** The prompt, whose end may begin the reasoning, or a call. */
  prompt?: string | undefined
  newId?: (() => string) | undefined
}

type State =
  | 'text'
  | 'reasoning'
  | 'call'
  | 'object'
  | 'name'
  | 'nameEnd'
  | 'id'
  | 'json'
  | 'block'
  | 'key'
  | 'type'
  | 'value'
  | 'after'

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

/** Nine letters and digits, which Mistral's templates ask for. */
const randomId = () => Array.from({ length: 9 }, () => LETTERS[Math.floor(Math.random() * LETTERS.length)]).join('')

/** Special tokens must be shown in the text that it is given: `<tool_call>` may be one. */
export class ChatParser {
  readonly #format: ChatFormat
  readonly #calls: CallFormat | undefined
  readonly #tools: readonly Tool[]
  readonly #newId: () => string
  #state: State = 'text'
  #buffer = ''
  #parts: Part[] = []
  #ended = false
  /** White space is left out until something else comes. */
  #fresh = false
  /** Anything of the answer has been handed on. */
  #begun = false
  #index = -1
  #name = ''
  #key = ''
  #valueType = ''
  #keys = 0
  #object: ObjectReader | undefined
  #value = new ValueReader()

  constructor(format: ChatFormat, { tools = [], prompt = '', newId = randomId }: ChatParserOptions = {}) {
    this.#format = format
    this.#calls = format.calls
    this.#tools = tools
    this.#newId = newId
    this.#fresh = format.leadingSpace
    const tail = prompt.trimEnd()
    if (format.reasoning && tail.endsWith(format.reasoning.open)) this.#enter('reasoning')
    const open = this.#calls?.callOpen ?? ''
    if (open !== '' && tail.endsWith(open)) this.#enter('call')
  }

  push(text: string): Part[] {
    this.#buffer += text
    return this.#run()
  }

  /** What is left at the end of the answer. */
  finish<Reason extends string>(reason: Reason): Part<Reason>[] {
    this.#ended = true
    const parts = this.#run()
    return [...(parts as Part<Reason>[]), { type: 'finish', reason }]
  }

  #run(): Part[] {
    while (this.#step());
    const parts = this.#parts
    this.#parts = []
    return parts
  }

  #enter(state: State): true {
    this.#state = state
    if (state === 'text' || state === 'reasoning') this.#fresh = true
    return true
  }

  /** True if there may be more to do. */
  #step(): boolean {
    switch (this.#state) {
      case 'text':
        return this.#text()
      case 'reasoning':
        return this.#reasoning()
      case 'call':
        return this.#call()
      case 'object':
        return this.#readObject()
      case 'name':
      case 'id':
        return this.#readName()
      case 'nameEnd':
        return this.#skipTo((this.#calls as TaggedCalls).nameEnd!, 'key')
      case 'json':
        return this.#readJson()
      case 'block':
        return this.#readBlock()
      case 'key':
        return this.#readKey()
      case 'type':
        return this.#readType()
      case 'value':
        return this.#readValue()
      case 'after':
        return this.#after()
    }
  }

  #say(type: 'text' | 'reasoning', text: string): void {
    const said = this.#fresh ? text.trimStart() : text
    if (said === '') return
    this.#fresh = false
    this.#begun = true
    const last = this.#parts.at(-1)
    if (last?.type === type) last.text += said
    else this.#parts.push({ type, text: said })
  }

  /** Hands on text up to `end`, and keeps the white space before it for what comes. */
  #hold(type: 'text' | 'reasoning', end: number): false {
    const ready = this.#ended ? this.#buffer.length : this.#buffer.slice(0, end).trimEnd().length
    this.#say(type, this.#buffer.slice(0, ready))
    this.#buffer = this.#buffer.slice(ready)
    return false
  }

  #text(): boolean {
    const { reasoning, textOpen, textClose, drop } = this.#format
    const calls = this.#calls
    const start = calls ? calls.sectionOpen || calls.callOpen : ''
    if (calls?.shape === 'object' && start === '' && !this.#begun) {
      const isCall = this.#bareObject(calls.nameKey)
      if (isCall === undefined && !this.#ended) return false
      if (isCall) return this.#enter('call')
    }
    const mayCall = !calls?.atStart || !this.#begun
    const found = findFirst<State | 'drop'>(this.#buffer, [
      [mayCall ? start : '', 'call'],
      // A call of a section whose beginning the model left out.
      [mayCall && calls?.sectionOpen ? calls.callOpen : '', 'call'],
      [reasoning?.open ?? '', 'reasoning'],
      [textOpen, 'text'],
      [textClose, 'drop'],
      // The end of a reasoning that began before the answer, or never.
      [reasoning?.close ?? '', 'drop'],
      ...drop.map((literal) => [literal, 'drop'] as const),
    ])
    if ('wait' in found) return this.#hold('text', found.wait)
    this.#say('text', this.#buffer.slice(0, found.at).trimEnd())
    // A call's own opening is read by the call.
    const isOpening = found.what === 'call' && matchAt(this.#buffer, found.at, calls!.callOpen) === found.end
    this.#buffer = this.#buffer.slice(isOpening ? found.at : found.end)
    this.#begun = found.what === 'text'
    if (found.what === 'drop') return this.#enter('text')
    return this.#enter(found.what)
  }

  /** Whether an answer is a bare call, { "name": ...; undefined while that is open. */
  #bareObject(nameKey: string | undefined): boolean | undefined {
    const begun = this.#buffer.replace(/\s/g, '').slice(0, 40)
    const wanted = `{"${nameKey ?? ''}`
    if (begun.startsWith(wanted)) return true
    return wanted.startsWith(begun) ? undefined : false
  }

  #reasoning(): boolean {
    const { close } = this.#format.reasoning!
    const found = findFirst(this.#buffer, [[close, true]])
    if ('wait' in found) return this.#hold('reasoning', found.wait)
    this.#say('reasoning', this.#buffer.slice(0, found.at).trimEnd())
    this.#buffer = this.#buffer.slice(found.end)
    this.#begun = false
    return this.#enter('text')
  }

  /** The opening of a call. */
  #call(): boolean {
    const calls = this.#calls!
    const at = skipSpace(this.#buffer, 0)
    const end = matchAt(this.#buffer, at, calls.callOpen)
    if (end === 'partial' && !this.#ended) return false
    this.#buffer = this.#buffer.slice(typeof end === 'number' ? end : at)
    if (calls.shape === 'object') {
      this.#object = new ObjectReader(calls)
      return this.#enter('object')
    }
    if (calls.shape === 'name+json' && calls.syntax === 'python') return this.#enter('block')
    return this.#enter('name')
  }

  #begin(name: string, id = this.#newId()): void {
    this.#index++
    this.#begun = true
    this.#name = name
    this.#keys = 0
    this.#parts.push({ type: 'call', index: this.#index, id, name })
  }

  #argue(text: string): void {
    if (text === '') return
    const last = this.#parts.at(-1)
    if (last?.type === 'arguments') last.text += text
    else this.#parts.push({ type: 'arguments', index: this.#index, text })
  }

  #readObject(): boolean {
    const object = this.#object!
    let at = 0
    while (at < this.#buffer.length && !object.done) {
      const isNamed = object.name !== undefined
      const added = object.take(this.#buffer[at++]!)
      if (!isNamed && object.name !== undefined) this.#begin(object.name)
      this.#argue(added)
    }
    this.#buffer = this.#buffer.slice(at)
    if (!object.done && !this.#ended) return false
    // No call after all.
    if (object.name === undefined) {
      this.#fresh = false
      this.#say('text', object.raw.trimStart())
    }
    this.#object = undefined
    return object.done ? this.#enter(object.name === undefined ? 'text' : 'after') : false
  }

  /** The name, or the id behind it, up to what closes it. */
  #readName(): boolean {
    const calls = this.#calls as NamedCalls | TaggedCalls
    const isId = this.#state === 'id'
    const isNamed = calls.shape === 'name+json'
    const close = isId ? (calls as NamedCalls).idClose! : calls.nameClose
    const found = findFirst(this.#buffer, [
      [close, 'close'],
      [isNamed ? '' : calls.keyOpen, 'stay'],
      [isNamed && calls.idClose !== undefined && !isId ? calls.idClose : '', 'noId'],
      [isNamed && calls.syntax === 'json' && close.trim() === '' ? '{' : '', 'stay'],
      [calls.callClose, 'stay'],
    ])
    if ('wait' in found && !this.#ended) return false
    const end = 'wait' in found ? this.#buffer.length : found.at
    const written = this.#buffer.slice(0, end).trim()
    const what = 'wait' in found ? 'stay' : found.what
    this.#buffer = this.#buffer.slice('wait' in found || what === 'stay' ? end : found.end)
    if (!isNamed) {
      this.#begin(written)
      return this.#enter(calls.nameEnd !== undefined && what === 'close' ? 'nameEnd' : 'key')
    }
    if (isId) this.#begin(this.#name, written || undefined)
    else if (written === calls.textName) return this.#enter('text')
    else if (calls.idClose !== undefined && what === 'close') {
      this.#name = written
      return this.#enter('id')
    } else {
      const name = calls.written?.name.exec(written)?.[0] ?? written
      this.#begin(name, calls.written?.isId ? written : undefined)
    }
    this.#value = new ValueReader()
    return this.#enter(calls.syntax === 'json' ? 'json' : 'block')
  }

  #skipTo(literal: string, state: State): boolean {
    const found = findFirst(this.#buffer, [[literal, true]])
    if ('wait' in found && !this.#ended) return false
    this.#buffer = 'wait' in found ? '' : this.#buffer.slice(found.end)
    return this.#enter(state)
  }

  /** Arguments in JSON, handed on as they come. */
  #readJson(): boolean {
    if (this.#value.depth === 0 && !this.#value.inText) {
      this.#buffer = this.#buffer.slice(skipSpace(this.#buffer, 0))
      if (this.#buffer === '' && !this.#ended) return false
      if (!this.#buffer.startsWith('{')) {
        this.#argue('{}')
        return this.#enter('after')
      }
    }
    let at = 0
    let done = false
    while (at < this.#buffer.length && !done) done = this.#value.take(this.#buffer[at++]!)
    this.#argue(this.#buffer.slice(0, at))
    this.#buffer = this.#buffer.slice(at)
    return done ? this.#enter('after') : false
  }

  /** Arguments, or a list of calls, that are read as a whole. */
  #readBlock(): boolean {
    const calls = this.#calls as NamedCalls
    const close = calls.syntax === 'python' ? calls.sectionClose : calls.callClose
    const found = findFirst(this.#buffer, [[close, true]])
    if ('wait' in found && !this.#ended) return false
    const end = 'wait' in found ? this.#buffer.length : found.at
    const block = this.#buffer.slice(0, end)
    this.#buffer = this.#buffer.slice(end)
    if (calls.syntax === 'python') {
      for (const call of pythonCalls(block.replace(/\]\s*$/, ''))) {
        this.#begin(call.name)
        this.#argue(call.arguments)
      }
    } else this.#argue(gemmaJson(`{${block}`) ?? '{}')
    return this.#enter('after')
  }

  /** The next argument's tag, or the end of the call. */
  #readKey(): boolean {
    const calls = this.#calls as TaggedCalls
    const at = skipSpace(this.#buffer, 0)
    // A closing literal may begin like an opening one.
    const open = matchAt(this.#buffer, at, calls.keyOpen)
    const close = matchAt(this.#buffer, at, calls.callClose)
    if (
      typeof open !== 'number' &&
      typeof close !== 'number' &&
      !this.#ended &&
      (open === 'partial' || close === 'partial')
    )
      return false
    if (typeof open !== 'number') {
      this.#argue(this.#keys === 0 ? '{}' : '}')
      return this.#enter('after')
    }
    const found = findFirst(this.#buffer.slice(open), [[calls.keyClose.trimEnd() || calls.keyClose, true]])
    if ('wait' in found) {
      if (!this.#ended) return false
      this.#argue(this.#keys === 0 ? '{}' : '}')
      this.#buffer = ''
      return this.#enter('after')
    }
    this.#key = this.#buffer.slice(open, open + found.at).trim()
    this.#buffer = this.#buffer.slice(open + found.end)
    return this.#enter(calls.type ? 'type' : 'value')
  }

  #readType(): boolean {
    const { type } = this.#calls as TaggedCalls
    const found = findFirst(this.#buffer, [[type!.close.trimEnd(), true]])
    if ('wait' in found && !this.#ended) return false
    const [at, end] = 'wait' in found ? [0, 0] : [found.at, found.end]
    this.#valueType = this.#buffer.slice(0, at).trim()
    this.#buffer = this.#buffer.slice(end)
    return this.#enter('value')
  }

  #readValue(): boolean {
    const calls = this.#calls as TaggedCalls
    const found = findFirst(this.#buffer, [[calls.valueClose.trim() || calls.valueClose, true]])
    if ('wait' in found && !this.#ended) return false
    const [at, end] = 'wait' in found ? [this.#buffer.length, this.#buffer.length] : [found.at, found.end]
    const json = this.#valueJson(this.#buffer.slice(0, at), calls)
    this.#buffer = this.#buffer.slice(end)
    this.#argue(`${this.#keys++ === 0 ? '{' : ', '}${JSON.stringify(this.#key)}: ${json}`)
    return this.#enter('key')
  }

  #valueJson(written: string, calls: TaggedCalls): string {
    const { keyClose, valueClose, type, textWrap } = calls
    let text = written
    // Line ends that belong to the tags.
    if (/\s$/.test(type?.close ?? keyClose)) text = text.replace(/^\n/, '')
    if (valueClose.startsWith('\n')) text = text.replace(/\n$/, '')
    if (textWrap && text.startsWith(textWrap.open) && text.endsWith(textWrap.close)) {
      return JSON.stringify(text.slice(textWrap.open.length, text.length - textWrap.close.length))
    }
    if (type) return this.#valueType === type.text ? JSON.stringify(text) : (looseJson(text) ?? JSON.stringify(text))
    const wanted = this.#schemaType()
    if (wanted === 'string') return JSON.stringify(text)
    const json = looseJson(text)
    if (json === undefined || (wanted === undefined && json.startsWith('"'))) return JSON.stringify(text)
    return json
  }

  /** The type of the value in the tool's schema, if that has one alone. */
  #schemaType(): string | undefined {
    const tool = this.#tools.find(({ function: { name } }) => name === this.#name)
    const properties = tool?.function.parameters?.properties as
      | Record<string, { type?: unknown; enum?: unknown }>
      | undefined
    const property = properties && Object.hasOwn(properties, this.#key) ? properties[this.#key] : undefined
    return typeof property?.type === 'string' ? property.type : undefined
  }

  /** What stands behind a call: its end, another one, the end of them all. */
  #after(): boolean {
    const calls = this.#calls!
    const at = skipSpace(this.#buffer, 0)
    if (at === this.#buffer.length) {
      if (this.#ended) this.#buffer = ''
      return false
    }
    const next = ([literal, state]: readonly [string, State]) => ({
      match: literal === '' ? undefined : matchAt(this.#buffer, at, literal),
      state,
    })
    const options = [
      [calls.callClose, 'after'],
      [calls.sectionClose, 'text'],
      [calls.separator, 'call'],
      [calls.sectionOpen, 'call'],
      [calls.callOpen, 'call'],
      [this.#format.textClose, 'after'],
    ] as const
    const matches = options.map(next)
    const found = matches
      .filter(({ match }) => typeof match === 'number')
      .reduce<{ match: number; state: State } | undefined>(
        (best, one) => (best && best.match >= (one.match as number) ? best : (one as { match: number; state: State })),
        undefined,
      )
    const isPartial = matches.some(({ match }) => match === 'partial')
    if (isPartial && !this.#ended) return false
    if (found) {
      const isOpening = found.match === matches[4]!.match && found.state === 'call'
      this.#buffer = this.#buffer.slice(isOpening ? at : found.match)
      return this.#enter(found.state)
    }
    if (isPartial) {
      this.#buffer = ''
      return false
    }
    return this.#enter('text')
  }
}
