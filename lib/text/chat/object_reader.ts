/** Reads JSON while it is being written. */

/** Finds the end of one JSON value. */
export class ValueReader {
  #depth = 0
  #inText = false
  #escaped = false

  get depth(): number {
    return this.#depth
  }

  get inText(): boolean {
    return this.#inText
  }

  /** Takes a character; true if it closed the outermost bracket. */
  take(character: string): boolean {
    if (this.#inText) {
      if (this.#escaped) this.#escaped = false
      else if (character === '\\') this.#escaped = true
      else if (character === '"') this.#inText = false
      return false
    }
    if (character === '"') this.#inText = true
    else if (character === '{' || character === '[') this.#depth++
    else if (character === '}' || character === ']') return --this.#depth === 0
    return false
  }
}

export interface ObjectKeys {
  /** undefined: the key itself is the name, its value the arguments. */
  nameKey: string | undefined
  argumentsKey: string
}

/** A JSON object with a name and arguments, which are handed on as they come. */
export class ObjectReader {
  readonly #keys: ObjectKeys
  #state: 'start' | 'key' | 'colon' | 'value' | 'done' = 'start'
  #raw = ''
  #key = ''
  #value = ''
  #reader = new ValueReader()
  #streams = false
  #waiting: string | undefined
  #name: string | undefined
  #arguments = false

  constructor(keys: ObjectKeys) {
    this.#keys = keys
  }

  /** All that was taken, for an object that turns out to be no call. */
  get raw(): string {
    return this.#raw
  }

  get done(): boolean {
    return this.#state === 'done'
  }

  get name(): string | undefined {
    return this.#name
  }

  /** Takes a character; gives what it adds to the arguments. */
  take(character: string): string {
    this.#raw += character
    switch (this.#state) {
      case 'start':
        if (character === '{') this.#state = 'key'
        return ''
      case 'key':
        return this.#takeKey(character)
      case 'colon':
        if (character === ':') {
          this.#state = 'value'
          this.#value = ''
          this.#reader = new ValueReader()
          this.#streams = false
        }
        return ''
      case 'value':
        return this.#takeValue(character)
    }
    return ''
  }

  #takeKey(character: string): string {
    if (this.#reader.inText || character === '"') {
      this.#value += character
      this.#reader.take(character)
      if (this.#reader.inText) return ''
      this.#key = textOf(this.#value)
      this.#state = 'colon'
      if (this.#keys.nameKey === undefined) this.#name = this.#key
      return ''
    }
    return character === '}' ? this.#end() : ''
  }

  #isArguments(): boolean {
    return this.#keys.nameKey === undefined || this.#key === this.#keys.argumentsKey
  }

  #takeValue(character: string): string {
    const isEnd = this.#reader.depth === 0 && !this.#reader.inText && (character === ',' || character === '}')
    if (isEnd) {
      const added = this.#endValue()
      this.#state = 'key'
      this.#value = ''
      this.#reader = new ValueReader()
      return character === '}' ? added + this.#end() : added
    }
    this.#reader.take(character)
    const begins = this.#value === '' && character.trim() === ''
    if (begins) return ''
    if (this.#value === '') this.#streams = this.#isArguments() && this.#name !== undefined && character === '{'
    this.#value += character
    if (!this.#streams) return ''
    this.#arguments = true
    // White space behind the value is none of it.
    return this.#reader.depth === 0 && character.trim() === '' ? '' : character
  }

  #endValue(): string {
    if (this.#key === this.#keys.nameKey) {
      this.#name = textOf(this.#value.trim())
      const waiting = this.#waiting ?? ''
      this.#waiting = undefined
      this.#arguments ||= waiting !== ''
      return waiting
    }
    if (!this.#isArguments() || this.#streams) return ''
    // Arguments as a text that holds JSON, or none.
    const value = this.#value.trim()
    const json = value.startsWith('"') ? textOf(value) : value === 'null' ? '{}' : value
    if (this.#name === undefined) {
      this.#waiting = json
      return ''
    }
    this.#arguments = true
    return json
  }

  #end(): string {
    this.#state = 'done'
    return this.#arguments || this.#name === undefined ? '' : '{}'
  }
}

function textOf(json: string): string {
  try {
    return String(JSON.parse(json))
  } catch {
    return json.replace(/^"|"$/g, '')
  }
}
