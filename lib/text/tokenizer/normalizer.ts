/** The normalizer of tokenizer.json, as the tokenizers library in Rust has it. */

import { MillraceError } from '../../errors.ts'
import { BYTE_CHARACTERS } from './decoder.ts'
import { BertNormalizer, PrecompiledNormalizer } from './library.ts'
import { matches, type PatternConfig, patternOf } from './regex.ts'

export interface NormalizerConfig {
  type: string
  normalizers?: NormalizerConfig[] | undefined
  pattern?: PatternConfig | undefined
  content?: string | undefined
  prepend?: string | undefined
  strip_left?: boolean | undefined
  strip_right?: boolean | undefined
  precompiled_charsmap?: string | null | undefined
}

export type Normalize = (text: string) => string

const utf8 = new TextEncoder()

/** Throws TOKENIZER_INVALID where the normalizer is of a kind that is not known here. */
export function compileNormalizer(config: NormalizerConfig | null | undefined): Normalize | undefined {
  if (!config) return undefined
  switch (config.type) {
    case 'Sequence': {
      const steps = (config.normalizers ?? []).map(compileNormalizer).filter((step) => step !== undefined)
      return (text) => steps.reduce((now, step) => step(now), text)
    }
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD': {
      const form = config.type
      return (text) => text.normalize(form)
    }
    case 'Lowercase':
      // Letter by letter: a sigma at the end of a word is none to it.
      return (text) => Array.from(text, (letter) => letter.toLowerCase()).join('')
    case 'Strip': {
      const { strip_left: left = true, strip_right: right = true } = config
      return (text) => {
        const begun = left ? text.replace(/^\p{White_Space}+/u, '') : text
        return right ? begun.replace(/(?<!\p{White_Space})\p{White_Space}+$/u, '') : begun
      }
    }
    case 'StripAccents':
      return (text) => text.replace(/\p{Mn}/gu, '')
    case 'Prepend': {
      const { prepend = '' } = config
      return (text) => (text === '' ? text : prepend + text)
    }
    case 'Replace':
      return replacing(patternOf(config.pattern ?? {}), config.content ?? '')
    case 'ByteLevel':
      return (text) => Array.from(utf8.encode(text), (byte) => BYTE_CHARACTERS[byte]).join('')
    case 'BertNormalizer': {
      const bert = new BertNormalizer(config)
      return (text) => bert.normalize(text)
    }
    case 'Precompiled': {
      if (!config.precompiled_charsmap) return undefined
      const precompiled = new PrecompiledNormalizer(config)
      return (text) => precompiled.normalize(text)
    }
    default:
      throw new MillraceError('TOKENIZER_INVALID', {
        message: `tokenizer.json could not be read: normalizer '${config.type}' is not supported`,
        remedy: 'use a checkpoint with another tokenizer',
      })
  }
}

function replacing(pattern: string | RegExp, content: string): Normalize {
  return (text) => {
    let replaced = ''
    let at = 0
    for (const [start, end] of matches(text, pattern)) {
      replaced += text.slice(at, start) + content
      at = end
    }
    return at === 0 && replaced === '' ? text : replaced + text.slice(at)
  }
}
