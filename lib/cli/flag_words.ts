/** Options as the library's complaints name them -> the flags of the command that was called. */
import { answerRows, type OptionRow } from '../options/sampling.ts'

/** Options whose flags have names of their own; the rest are their options' in kebab case. */
const NAMES = new Map<string, string>([
  ['contextLength', '--context'],
  ['memory', '--vram'],
  ...Object.entries<OptionRow>(answerRows).flatMap(([name, { flag }]): [string, string][] =>
    flag ? [[name, flag.form.split(' ')[0]!]] : [],
  ),
])

/** Functions that a command does the work of. */
const CALLS = new Map([
  ['probe()', 'millrace probe'],
  ['generate()', 'millrace generate'],
  ['inspect()', 'millrace inspect'],
  ['plan()', 'millrace plan'],
])

/** Words that are options only where a sentence uses them so: 'lower batch', 'for ring but'. */
const PLAIN = /(?<=\b(?:pass|lower|or) |, )(truncate|batch)(?=[ ,.]|$)|(?<= for )([a-z]+)(?= but received)/g
const CAMEL = /(?<![\w.'"`-])([a-z]+(?:[A-Z][a-z]*)+)(?!\w|\(|\.\w|:)/g
const MACHINE = /\bmachine\.(?:gpu\.)?(\w+)/g
/** Whoever types a flag knows no types. */
const TYPED = /(?<= but received .*) of type (?:string|number)$/
const WITH_VALUE = /(?<![\w.'"`-])([a-z][A-Za-z]*): (true|'[^']*')/g

/** `flags`: those that the command has, such as '--context'. Names of other options stay as they are. */
export function withFlags(text: string, flags: ReadonlySet<string>): string {
  const flagOf = (name: string) => {
    const flag = NAMES.get(name) ?? `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
    return flags.has(flag) ? flag : undefined
  }
  const valued = (whole: string, name: string, value: string) => {
    const flag = flagOf(name)
    if (flag === undefined) return whole
    return value === 'true' ? flag : `${flag} ${value.slice(1, -1)}`
  }
  let out = text
    .replace(TYPED, '')
    .replace(MACHINE, (whole, name) => flagOf(name) ?? whole)
    .replace(WITH_VALUE, valued)
    .replace(CAMEL, (name) => flagOf(name) ?? name)
    .replace(PLAIN, (name) => flagOf(name) ?? name)
  for (const [call, command] of CALLS) out = out.replaceAll(call, command)
  return out
}
