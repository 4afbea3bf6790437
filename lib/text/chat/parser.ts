/** An answer as it is written -> its parts: text, reasoning, calls of tools. */
import type { CallFormat, ChatFormat, NamedCalls, TaggedCalls } from './format.ts'
import { type Found, findFirst, matchAt, skipSpace } from './literals.ts'
import { ObjectReader, ValueReader } from './object_reader.ts'
import { behindCall, isBareCall, openings } from './openings.ts'
import { type Part, Parts, randomId } from './parts.ts'
import type { ChatParserOptions, State } from './states.ts'
import { argumentSchema, taggedValue } from './tagged_value.ts'
import type { Tool } from './types.ts'
import { gemmaJson, pythonCalls } from './values.ts'

/** Special tokens must be shown in the text that it is given: `<tool_call>` may be one. */
export class ChatParser {
  readonly #format: ChatFormat
  readonly #calls: CallFormat | undefined
  readonly #tools: readonly Tool[]
  readonly #parts: Parts
  #state: State = 'text'
  #buffer = ''
  /** How much of the buffer has no end of a value. */
  #sought = 0
  #ended = false
  #key = ''
  #valueType = ''
  #keys = 0
  #object: ObjectReader | undefined
  #value = new ValueReader()

  constructor(format: ChatFormat, { tools = [], prompt = '', newId = randomId }: ChatParserOptions = {}) {
    this.#format = format
    this.#calls = format.calls
    this.#tools = tools
    this.#parts = new Parts(newId)
    this.#parts.fresh = format.leadingSpace
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
    return this.#parts.take()
  }

  #enter(state: State): true {
    this.#state = state
    if (state === 'text' || state === 'reasoning') this.#parts.fresh = true
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

  /** Hands on text up to `end`, and keeps the white space before it for what comes. */
  #hold(type: 'text' | 'reasoning', end: number): false {
    const ready = this.#ended ? this.#buffer.length : this.#buffer.slice(0, end).trimEnd().length
    this.#parts.say(type, this.#buffer.slice(0, ready))
    this.#buffer = this.#buffer.slice(ready)
    return false
  }

  #text(): boolean {
    const calls = this.#calls
    const start = calls ? calls.sectionOpen || calls.callOpen : ''
    if (calls?.shape === 'object' && start === '' && !this.#parts.begun) {
      const isCall = isBareCall(this.#buffer, calls.nameKey)
      if (isCall === undefined && !this.#ended) return false
      if (isCall) return this.#enter('call')
    }
    const found = findFirst(this.#buffer, openings(this.#format, !calls?.atStart || !this.#parts.begun))
    if ('wait' in found) return this.#hold('text', found.wait)
    this.#parts.say('text', this.#buffer.slice(0, found.at).trimEnd())
    // A call's own opening is read by the call.
    const isOpening = found.what === 'call' && matchAt(this.#buffer, found.at, calls!.callOpen) === found.end
    this.#buffer = this.#buffer.slice(isOpening ? found.at : found.end)
    this.#parts.begun = found.what === 'text'
    if (found.what === 'drop') return this.#enter('text')
    return this.#enter(found.what)
  }

  #reasoning(): boolean {
    const { close } = this.#format.reasoning!
    const found = findFirst(this.#buffer, [[close, true]])
    if ('wait' in found) return this.#hold('reasoning', found.wait)
    this.#parts.say('reasoning', this.#buffer.slice(0, found.at).trimEnd())
    this.#buffer = this.#buffer.slice(found.end)
    this.#parts.begun = false
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

  #begin(name: string, id?: string): void {
    this.#keys = 0
    this.#parts.begin(name, id)
  }

  #readObject(): boolean {
    const object = this.#object!
    let at = 0
    while (at < this.#buffer.length && !object.done) {
      const isNamed = object.name !== undefined
      const added = object.take(this.#buffer[at++]!)
      if (!isNamed && object.name !== undefined) this.#begin(object.name)
      this.#parts.argue(added)
    }
    this.#buffer = this.#buffer.slice(at)
    if (!object.done && !this.#ended) return false
    // No call after all.
    if (object.name === undefined) {
      this.#parts.fresh = false
      this.#parts.say('text', object.raw.trimStart())
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
    if (isId) this.#begin(this.#parts.name, written || undefined)
    else if (written === calls.textName) return this.#enter('text')
    else if (calls.idClose !== undefined && what === 'close') {
      this.#parts.name = written
      return this.#enter('id')
    } else {
      const name = calls.written?.name.exec(written)?.[0] ?? written
      this.#begin(name, calls.written?.isId ? written : undefined)
    }
    this.#value = new ValueReader()
    return this.#enter(calls.syntax === 'json' ? 'json' : 'block')
  }

  /** What ends a value that is read as a whole: each character is looked at once, however long it grows. */
  #find(literal: string): Found<true> | { wait: number } {
    const from = this.#sought
    const found = findFirst<true>(this.#buffer.slice(from), [[literal, true]])
    this.#sought = 'wait' in found && !this.#ended ? from + found.wait : 0
    return 'wait' in found ? { wait: from + found.wait } : { at: from + found.at, end: from + found.end, what: true }
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
        this.#parts.argue('{}')
        return this.#enter('after')
      }
    }
    let at = 0
    let done = false
    while (at < this.#buffer.length && !done) done = this.#value.take(this.#buffer[at++]!)
    this.#parts.argue(this.#buffer.slice(0, at))
    this.#buffer = this.#buffer.slice(at)
    return done ? this.#enter('after') : false
  }

  /** Arguments, or a list of calls, that are read as a whole. */
  #readBlock(): boolean {
    const calls = this.#calls as NamedCalls
    const close = calls.syntax === 'python' ? calls.sectionClose : calls.callClose
    const found = this.#find(close)
    if ('wait' in found && !this.#ended) return false
    const end = 'wait' in found ? this.#buffer.length : found.at
    const block = this.#buffer.slice(0, end)
    this.#buffer = this.#buffer.slice(end)
    if (calls.syntax === 'python') {
      for (const call of pythonCalls(block.replace(/\]\s*$/, ''))) {
        this.#begin(call.name)
        this.#parts.argue(call.arguments)
      }
    } else this.#parts.argue(gemmaJson(`{${block}`) ?? '{}')
    return this.#enter('after')
  }

  /** The next argument's tag, or the end of the call. */
  #readKey(): boolean {
    const calls = this.#calls as TaggedCalls
    const at = skipSpace(this.#buffer, 0)
    // A closing literal may begin like an opening one.
    const open = matchAt(this.#buffer, at, calls.keyOpen)
    const close = matchAt(this.#buffer, at, calls.callClose)
    if (typeof open !== 'number') {
      if (typeof close !== 'number' && !this.#ended && (open ?? close) === 'partial') return false
      return this.#endArguments()
    }
    const found = findFirst(this.#buffer.slice(open), [[calls.keyClose.trimEnd() || calls.keyClose, true]])
    if ('wait' in found) {
      if (!this.#ended) return false
      this.#buffer = ''
      return this.#endArguments()
    }
    this.#key = this.#buffer.slice(open, open + found.at).trim()
    this.#buffer = this.#buffer.slice(open + found.end)
    return this.#enter(calls.type ? 'type' : 'value')
  }

  #endArguments(): true {
    this.#parts.argue(this.#keys === 0 ? '{}' : '}')
    return this.#enter('after')
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
    const found = this.#find(calls.valueClose.trim() || calls.valueClose)
    if ('wait' in found && !this.#ended) return false
    const [at, end] = 'wait' in found ? [this.#buffer.length, this.#buffer.length] : [found.at, found.end]
    const json = taggedValue(this.#buffer.slice(0, at), calls, {
      type: this.#valueType,
      schema: argumentSchema(this.#tools, this.#parts.name, this.#key),
    })
    this.#buffer = this.#buffer.slice(end)
    this.#parts.argue(`${this.#keys++ === 0 ? '{' : ', '}${JSON.stringify(this.#key)}: ${json}`)
    return this.#enter('key')
  }

  /** What stands behind a call: its end, another one, the end of them all. */
  #after(): boolean {
    const at = skipSpace(this.#buffer, 0)
    if (at === this.#buffer.length) {
      if (this.#ended) this.#buffer = ''
      return false
    }
    const next = behindCall(this.#buffer, at, this.#calls!, {
      textClose: this.#format.textClose,
      ended: this.#ended,
    })
    if (next === 'partial') {
      if (this.#ended) this.#buffer = ''
      return false
    }
    if (next === undefined) return this.#enter('text')
    this.#buffer = this.#buffer.slice(next.from)
    return this.#enter(next.state)
  }
}
