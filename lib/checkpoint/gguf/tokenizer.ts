/** A tokenizer as GGUF's metadata has it. */
import { basename } from 'node:path'
import { addon } from '../../binding.ts'
import { type GgufMetadata, type GgufStrings, readGgufHeader } from './metadata.ts'

/** llama.cpp's types of tokens. */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

export interface GgufTokenizer {
  /** For messages. */
  file: string
  /** The model's name, by which llama.cpp knows a few oddities. */
  name: string
  /** 'llama': SentencePiece; 'gpt2': byte-level BPE; others. */
  model: string
  /** How text is split before merging: 'llama-bpe', 'qwen2', ... */
  pre: string | undefined
  tokens: GgufStrings
  scores: ArrayLike<number> | undefined
  types: ArrayLike<number> | undefined
  merges: GgufStrings | undefined
  /** Ids of special tokens by their names: 'bos', 'eos', 'unknown', ... */
  special: Readonly<Record<string, number>>
  addBos: boolean | undefined
  addEos: boolean | undefined
  addSpacePrefix: boolean | undefined
  chatTemplate: string | undefined
}

const PREFIX = 'tokenizer.ggml'
const SPECIAL = ['bos', 'eos', 'eot', 'eom', 'unknown', 'padding', 'seperator', 'mask'] as const

/** Reads the header of a GGUF file. Throws the CHECKPOINT_ errors. */
export function readGgufTokenizer(path: string): GgufTokenizer {
  return tokenizerOf(readGgufHeader(addon(), path, basename(path)).metadata)
}

function tokenizerOf(metadata: GgufMetadata): GgufTokenizer {
  const key = (name: string) => `${PREFIX}.${name}`
  const tokens = metadata.require(key('tokens'), metadata.texts(key('tokens')))
  const list = (name: 'scores' | 'token_type') => {
    const values = metadata.numbers(key(name))
    if (values === undefined || values.length === tokens.length) return values
    throw metadata.invalid(
      `metadata key '${key(name)}': expected one a token (${tokens.length}), found ${values.length}`,
    )
  }
  const special: Record<string, number> = {}
  for (const name of SPECIAL) {
    const id = metadata.integer(key(`${name}_token_id`), 0, 2 ** 32 - 1)
    if (id !== undefined && id < tokens.length) special[name] = id
  }
  return {
    file: metadata.file,
    name: metadata.text('general.name') ?? '',
    model: metadata.require(key('model'), metadata.text(key('model'))),
    pre: metadata.text(key('pre')),
    tokens,
    scores: list('scores'),
    types: list('token_type'),
    merges: metadata.texts(key('merges')),
    special,
    addBos: metadata.boolean(key('add_bos_token')),
    addEos: metadata.boolean(key('add_eos_token')),
    addSpacePrefix: metadata.boolean(key('add_space_prefix')),
    chatTemplate: metadata.text('tokenizer.chat_template') ?? metadata.text('tokenizer.chat_template.default'),
  }
}
