/** Models of several parts, as of text and images: the text's tensors under the names that they have in a model of text alone. */
import type { ModelSource, NativeTensor } from '../binding.ts'
import { WITH_TEXT_CONFIG } from './architectures/index.ts'
import type { Warn } from './config.ts'

/** Beginnings of names in files of transformers 5 and 4, and what stands for them. */
const PREFIXES: readonly [from: string, to: string][] = [
  ['model.language_model.', 'model.'],
  ['language_model.model.', 'model.'],
  ['language_model.lm_head.', 'lm_head.'],
]

const toText = (name: string): string | undefined => {
  const found = PREFIXES.find(([from]) => name.startsWith(from))
  if (found) return found[1] + name.slice(found[0].length)
  return name.startsWith('lm_head.') ? name : undefined
}

const aliases = (module: string): string[] =>
  PREFIXES.flatMap(([from, to]) =>
    `${module}.`.startsWith(to) ? [`${from}${`${module}.`.slice(to.length)}`.slice(0, -1)] : [],
  )

export interface TextPart {
  tensors: NativeTensor[]
  /** Names that a module has in files of all parts. */
  aliases: (module: string) => readonly string[]
  /** The same source, of the file's own names. */
  asStored(source: ModelSource): ModelSource
}

/** Of a model of text alone, all of it. */
export function textPart(architecture: string, tensors: NativeTensor[], warn: Warn): TextPart {
  if (!WITH_TEXT_CONFIG.some((name) => name === architecture))
    return { tensors, aliases: () => [], asStored: (source) => source }
  const stored = new Map<string, string>()
  const text = tensors.flatMap((tensor) => {
    const name = toText(tensor.name)
    if (name === undefined) return []
    stored.set(name, tensor.name)
    return [{ ...tensor, name }]
  })
  const left = tensors.length - text.length
  if (left > 0) warn(`of ${architecture} the text's part is read; ${left} tensors of other parts are not`)
  const asStored = <Value>(value: Value): Value => {
    if (typeof value === 'string') return (stored.get(value) ?? value) as Value
    if (Array.isArray(value)) return value.map(asStored) as Value
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, asStored(item)])) as Value
  }
  return {
    tensors: text,
    aliases,
    asStored: (source) => ({ ...source, units: asStored(source.units), tables: asStored(source.tables) }),
  }
}
