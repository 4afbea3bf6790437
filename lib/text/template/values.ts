/** Python's values as templates see them. None is null; integers are numbers while those are exact, else bigints. */
import { spend } from './meter.ts'
import { typeError, undefinedError } from './problems.ts'

export type Integer = number | bigint

export type Value =
  | null
  | boolean
  | Integer
  | Float
  | string
  | Value[]
  | Tuple
  | Range
  | Dict
  | View
  | Namespace
  | Callable
  | Undefined
  | Attributes

/** A number that Python would print with a point. */
export class Float {
  readonly value: number

  constructor(value: number) {
    this.value = value
  }
}

export class Tuple {
  readonly items: Value[]
  /** Names of the items, of a named tuple. */
  readonly names: readonly string[]

  constructor(items: Value[], names: readonly string[] = []) {
    this.items = items
    this.names = names
  }
}

/** What range() gives. */
export class Range {
  readonly text: string
  readonly items: number[]

  constructor(text: string, items: number[]) {
    this.text = text
    this.items = items
  }
}

/** A dict's view, or a generator, which is spent once it has been read. */
export class View {
  readonly type: string
  #items: Value[]
  readonly #once: boolean

  constructor(type: string, items: Value[], once: boolean) {
    this.type = type
    this.#items = items
    this.#once = once
  }

  static generator(items: Value[]): View {
    return new View('generator', items, true)
  }

  get once(): boolean {
    return this.#once
  }

  take(): Value[] {
    const items = this.#items
    if (this.#once) this.#items = []
    return items
  }

  /** The next item alone. */
  next(): Value | undefined {
    const [first] = this.#items
    if (this.#once) this.#items = this.#items.slice(1)
    return first
  }
}

/** The one value that templates change: {% set ns.x = 1 %}. */
export class Namespace {
  readonly values: Map<string, Value>

  constructor(values: Map<string, Value>) {
    this.values = values
  }
}

/** A thing of Jinja's own, such as `loop`: attributes, perhaps a call. */
export interface Attributes {
  readonly label: string
  attribute(name: string): Value | undefined
  call?(args: Value[], named: Named): Value
}

export type Named = ReadonlyMap<string, Value>

export class Callable {
  readonly name: string
  readonly call: (args: Value[], named: Named) => Value

  constructor(name: string, call: (args: Value[], named: Named) => Value) {
    this.name = name
    this.call = call
  }
}

/** What a name or an item that is not there gives: it prints as nothing, and any use of it is an error. */
export class Undefined {
  readonly problem: () => Error
  /** The variable itself, where the template names one that nobody set. */
  readonly variable: string | undefined

  constructor(problem: () => Error, variable?: string) {
    this.problem = problem
    this.variable = variable
  }

  static named(name: string): Undefined {
    return new Undefined(() => undefinedError(`'${name}' is undefined`), name)
  }

  static within(owner: Value, name: Value): Undefined {
    return new Undefined(() =>
      undefinedError(
        typeof name === 'string'
          ? `'${owner === null ? 'None' : `${typeName(owner)} object`}' has no attribute '${name}'`
          : `${typeName(owner)} object has no element ${String(name)}`,
      ),
    )
  }
}

type Key = string | number | bigint | null | symbol

/** A dict: equal keys are one (1, 1.0 and True are), in order of entry. */
export class Dict {
  readonly #entries = new Map<Key, [key: Value, value: Value]>()

  constructor(entries: Iterable<[Value, Value]> = []) {
    for (const [key, value] of entries) this.set(key, value)
  }

  get size(): number {
    return this.#entries.size
  }

  set(key: Value, value: Value): void {
    const id = keyOf(key)
    const old = this.#entries.get(id)
    if (old) old[1] = value
    else this.#entries.set(id, [key, value])
  }

  get(key: Value): Value | undefined {
    return this.#entries.get(keyOf(key))?.[1]
  }

  has(key: Value): boolean {
    return this.#entries.has(keyOf(key))
  }

  entries(): [Value, Value][] {
    return [...this.#entries.values()]
  }
}

export const isHashable = (key: Value): boolean =>
  key instanceof Tuple
    ? key.items.every(isHashable)
    : !(Array.isArray(key) || key instanceof Dict || key instanceof Namespace)

const UNDEFINED = Symbol('undefined')

/** Before what stands for a tuple, and before texts that begin with it. */
const TUPLE = '\0'

function keyOf(key: Value): Key {
  if (typeof key === 'string') {
    spend(key.length / 64)
    return key.startsWith(TUPLE) ? `${TUPLE}${key}` : key
  }
  if (key === null || typeof key === 'number' || typeof key === 'bigint') return key
  if (typeof key === 'boolean') return Number(key)
  if (key instanceof Float) return Number.isInteger(key.value) ? integer(BigInt(key.value)) : key.value
  // A text, which is let go of with its dict as no registered symbol is.
  if (key instanceof Tuple)
    return `${TUPLE}${JSON.stringify(key.items.map((item) => [typeName(item), String(keyOf(item))]))}`
  if (key instanceof Undefined) return UNDEFINED
  throw typeError(`unhashable type: '${typeName(key)}'`)
}

/** An integer as a number where that is exact. */
export function integer(value: bigint): Integer {
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value
}

/** A value that may be absent; not `??`, which would pass over None. */
export const orElse = (value: Value | undefined, fallback: () => Value): Value =>
  value === undefined ? fallback() : value

export const isInteger = (value: Value): value is Integer => typeof value === 'number' || typeof value === 'bigint'

export const isNumber = (value: Value): value is Integer | Float | boolean =>
  isInteger(value) || typeof value === 'boolean' || value instanceof Float

export const isAttributes = (value: Value): value is Attributes =>
  typeof value === 'object' && value !== null && 'attribute' in value

export function typeName(value: Value): string {
  if (value === null) return 'NoneType'
  if (typeof value === 'boolean') return 'bool'
  if (isInteger(value)) return 'int'
  if (typeof value === 'string') return 'str'
  if (value instanceof Float) return 'float'
  if (Array.isArray(value)) return 'list'
  if (value instanceof Tuple) return 'tuple'
  if (value instanceof Dict) return 'dict'
  if (value instanceof Range) return 'range'
  if (value instanceof View) return value.type
  if (value instanceof Namespace) return 'Namespace'
  if (value instanceof Undefined) return 'Undefined'
  if (value instanceof Callable) return 'function'
  return value.label
}

export function truth(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false
  if (typeof value === 'boolean') return value
  if (isInteger(value)) return Number(value) !== 0
  if (typeof value === 'string') return value !== ''
  if (value instanceof Float) return value.value !== 0
  if (Array.isArray(value)) return value.length > 0
  if (value instanceof Tuple || value instanceof Range) return value.items.length > 0
  if (value instanceof Dict) return value.size > 0
  if (value instanceof View) return value.once || value.take().length > 0
  return true
}

/** Code points of a text: what Python counts and cuts by. */
export function characters(text: string): string[] | string {
  return /[\uD800-\uDFFF]/.test(text) ? Array.from(text) : text
}

/** What a `for` goes through. */
export function iterate(value: Value): Value[] {
  if (Array.isArray(value)) return value
  if (typeof value === 'string') {
    spend(value.length)
    return Array.from(value)
  }
  if (value instanceof Tuple || value instanceof Range) return value.items
  if (value instanceof Dict) {
    spend(value.size)
    return value.entries().map(([key]) => key)
  }
  if (value instanceof View) return value.take()
  if (value instanceof Undefined) return []
  throw typeError(`'${typeName(value)}' object is not iterable`)
}

export const isIterable = (value: Value) =>
  Array.isArray(value) ||
  typeof value === 'string' ||
  value instanceof Tuple ||
  value instanceof Range ||
  value instanceof Dict ||
  value instanceof View ||
  value instanceof Undefined

/** len(); undefined where Python has none. */
export function lengthOf(value: Value): number | undefined {
  if (typeof value === 'string') return characters(value).length
  if (Array.isArray(value)) return value.length
  if (value instanceof Tuple || value instanceof Range) return value.items.length
  if (value instanceof Dict) return value.size
  if (value instanceof View) return value.once ? undefined : value.take().length
  if (value instanceof Undefined) return 0
  return undefined
}
