/** Names of tensors in GGUF files and in Hugging Face folders, there and back. */
import type { NativeTensor } from '../../binding.ts'
import { type GgufArchitecture, OUTSIDE, PARTS } from './architectures.ts'

const IN_LAYER = /^blk\.(\d+)\.([^.]+)(\..+)?$/

export class TensorNames {
  readonly #parts: Readonly<Record<string, string>>
  readonly #whole: Readonly<Record<string, string>>
  readonly #stored = new Map<string, string>()

  constructor(architecture: GgufArchitecture, tensors: readonly Pick<NativeTensor, 'name'>[]) {
    this.#parts = { ...PARTS, ...architecture.parts }
    this.#whole = architecture.whole ?? {}
    for (const { name } of tensors) this.#stored.set(this.toHub(name), name)
  }

  /** The name that the same tensor has in a Hugging Face folder; parts that are not known keep theirs. */
  toHub(name: string): string {
    const layer = IN_LAYER.exec(name)
    if (layer) {
      const [, index, part, rest = ''] = layer
      const whole = this.#whole[`${part}${rest}`]
      if (whole !== undefined) return `model.layers.${index}.${whole}`
      return `model.layers.${index}.${Object.hasOwn(this.#parts, part!) ? this.#parts[part!] : part}${rest}`
    }
    const [part, ...rest] = name.split('.')
    return [Object.hasOwn(OUTSIDE, part!) ? OUTSIDE[part!] : part, ...rest].join('.')
  }

  /** The file's own name, also of a tensor that it does not have. */
  toStored(name: string): string {
    const known = this.#stored.get(name)
    if (known !== undefined) return known
    const layer = /^model\.layers\.(\d+)\.(.+)$/.exec(name)
    const table = layer ? this.#parts : OUTSIDE
    const rest = layer ? layer[2]! : name
    const found = Object.entries(table).find(([, hub]) => rest === hub || rest.startsWith(`${hub}.`))
    const stored = found ? `${found[0]}${rest.slice(found[1].length)}` : rest
    return layer ? `blk.${layer[1]}.${stored}` : stored
  }

  /** Of a tensor, or of a part of one. */
  #ofName(name: string): string {
    const [, whole, part] = /^(.*?)(\[\d+\])?$/s.exec(name)!
    const stored = this.#stored.get(whole!)
    return stored === undefined ? name : `${stored}${part ?? ''}`
  }

  /** The same source, of the file's own names. */
  ofSource<Source>(source: Source): Source {
    if (typeof source === 'string') return this.#ofName(source) as Source
    if (Array.isArray(source)) return source.map((item) => this.ofSource(item)) as Source
    if (typeof source !== 'object' || source === null) return source
    return Object.fromEntries(Object.entries(source).map(([key, value]) => [key, this.ofSource(value)])) as Source
  }
}
