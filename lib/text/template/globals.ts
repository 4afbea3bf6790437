/** Functions that every template may call. */
import { bind, count, text } from './arguments.ts'
import { Cycler, joiner } from './loop.ts'
import { spend } from './meter.ts'
import { Lacking, Refusal, Unbounded } from './problems.ts'
import { strftime } from './strftime.ts'
import { str } from './text.ts'
import { Callable, Dict, iterate, type Named, Namespace, orElse, Range, type Value } from './values.ts'

/** As Jinja's sandbox has it. */
const MAX_RANGE = 100_000

function range(args: Value[]): Value {
  const numbers = args.map((value) => count(value, 0))
  const [start, stop, step] =
    numbers.length === 1 ? [0, numbers[0]!, 1] : ([numbers[0] ?? 0, numbers[1] ?? 0, numbers[2] ?? 1] as const)
  if (step === 0) throw new Unbounded('range() with a step of zero')
  const length = Math.max(0, Math.ceil((stop - start) / step))
  if (!(length <= MAX_RANGE)) {
    throw new Unbounded(`range() of more than ${MAX_RANGE} numbers`)
  }
  spend(length)
  const shown = step === 1 ? `range(${start}, ${stop})` : `range(${start}, ${stop}, ${step})`
  return new Range(
    shown,
    Array.from({ length }, (_, index) => start + index * step),
  )
}

/** The entries that dict() and namespace() take: a dict or pairs, and names. */
function entries([first]: Value[], named: Named): [Value, Value][] {
  const pairs =
    first === undefined
      ? []
      : first instanceof Dict
        ? first.entries()
        : iterate(first).map((pair) => iterate(pair) as [Value, Value])
  spend(pairs.length)
  return [...pairs, ...named]
}

export function globals(now: () => Date): [string, Value][] {
  const functions: Record<string, (args: Value[], named: Named) => Value> = {
    range,
    dict: (args, named) => new Dict(entries(args, named)),
    namespace: (args, named) => new Namespace(new Map(entries(args, named).map(([key, value]) => [str(key), value]))),
    cycler: (args) => new Cycler(args),
    joiner: (args, named) => joiner(orElse(bind('joiner', ['sep'], args, named)[0], () => ', ')),
    lipsum: () => {
      throw new Lacking('lipsum() is not supported')
    },
    raise_exception: (args) => {
      throw new Refusal(args.length > 0 ? str(args[0]!) : '')
    },
    strftime_now: (args) => strftime(now(), text(args[0])),
  }
  return Object.entries(functions).map(([name, call]) => [name, new Callable(name, call)])
}
