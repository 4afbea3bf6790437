/** What a filter is. */
import { bind } from './arguments.ts'
import { str } from './text.ts'
import type { Named, Value } from './values.ts'

export type Arguments = readonly (Value | undefined)[]

export type Filter = (value: Value, args: readonly Value[], named: Named) => Value

/** A filter with arguments that have names. */
export const filter =
  (names: string, run: (value: Value, args: Arguments) => Value): Filter =>
  (value, args, named) =>
    run(value, bind('the filter', names.split(' ').filter(Boolean), args, named))

/** A filter on the text of a value. */
export const onText = (names: string, run: (value: string, args: Arguments) => Value) =>
  filter(names, (value, args) => run(str(value), args))
