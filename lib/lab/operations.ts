/** The built-in operations: one table, which the native side has and every device launches from. */
import { addon, type NativeOperation, type NativeProblem } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument, nearest } from '../options/validate.ts'

export type ElementType = 'u8' | 'i32' | 'f16' | 'bf16' | 'f32'

/** A number that an operation is launched with. */
export interface Dimension {
  name: string
  what: string
  required: boolean
  /** Taken where none is given. */
  fallback?: number
  least: number
  most: number
  integer: boolean
}

export interface Operation {
  name: string
  what: string
  /** A kernel of one's own may take its place: see loadKernel(). */
  replaceable: boolean
  dimensions: Dimension[]
  /** `shape`: in words of the dimensions. */
  arguments: { name: string; access: 'in' | 'inout' | 'out'; type: ElementType; shape: string; what: string }[]
}

export interface ProblemArgument {
  name: string
  access: 'in' | 'inout' | 'out'
  type: ElementType
  shape: number[]
  bytes: number
}

/** An operation with its dimensions. */
export interface Problem {
  operation: string
  /** All of them. */
  dimensions: Record<string, number>
  arguments: ProblemArgument[]
  /** Of weights, table rows, keys and values: what must be read at least once. */
  weightBytes: number
  /** What must be read or written at least once, of all arguments. */
  bytes: number
  /** Multiplications and additions. */
  operations: number
  /** Of a linear, where its matrix lies in `slab`; bytes. See SLAB_LAYOUT. */
  matrix?: NonNullable<NativeProblem['matrix']>
}

/** Every built-in operation with its dimensions and arguments. Throws ADDON_NOT_BUILT. */
export function operations(): Operation[] {
  return addon().lab.operations() as (NativeOperation & Operation)[]
}

let known: ReadonlyMap<string, readonly string[]> | undefined

/**
 * Every operation's names of arguments. Each call of a lab asks, and the whole table takes milliseconds to make. Throws
 * ADDON_NOT_BUILT.
 * @internal
 */
export function argumentNames(): ReadonlyMap<string, readonly string[]> {
  known ??= new Map(operations().map(({ name, arguments: own }) => [name, own.map((argument) => argument.name)]))
  return known
}

/** Sizes of an operation's arguments. Throws INVALID_ARGUMENT naming the dimension. */
export function describe(operation: string, dimensions: Readonly<Record<string, number>>): Problem {
  checkOperation(operation)
  for (const [name, value] of Object.entries(dimensions)) {
    if (typeof value !== 'number') throw invalidArgument('a number', name, value)
  }
  try {
    return addon().lab.describe(operation, { ...dimensions }) as NativeProblem & Problem
  } catch (error) {
    throw MillraceError.fromNative(error)
  }
}

export function checkOperation(operation: unknown, remedy = 'operations() lists them'): string {
  if (typeof operation === 'string' && argumentNames().has(operation)) return operation
  const names = [...argumentNames().keys()]
  const likely = typeof operation === 'string' ? nearest(operation, names) : undefined
  throw invalidArgument(
    `one of ${names.join(', ')}`,
    'operation',
    operation,
    likely === undefined ? remedy : `did you mean '${likely}'?`,
  )
}
