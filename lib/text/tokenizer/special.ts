/** The added tokens of all of a tokenizer's files, put together as transformers 5 does. */
import type { AddedToken } from './added.ts'
import type { NamedToken, TokenizerConfig, TokenizerFiles, TokenizerJson } from './files.ts'

const NAMED = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token']

type Flags = Exclude<NamedToken, string>

/**
 * tokenizer.json's tokens; then those of tokenizer_config.json, or of added_tokens.json where it lists none, whose flags
 * rule; then the special tokens that are named and were not there. Ids are tokenizer.json's, the vocabulary's, or the
 * next free ones.
 */
export function addedTokensOf(
  tokenizer: TokenizerJson,
  config: TokenizerConfig,
  files: Pick<TokenizerFiles, 'addedTokens'>,
  vocabulary: ReadonlyMap<string, number>,
): AddedToken[] {
  const tokens = new Map<string, AddedToken>()
  for (const { id, ...flags } of tokenizer.added_tokens ?? []) tokens.set(flags.content, { ...tokenOf(flags), id })
  const add = (flags: Flags) => {
    const { content } = flags
    if (content === '') return
    const known = tokens.get(content)
    const token = tokenOf(flags)
    const id = known?.id ?? vocabulary.get(content) ?? nextId(tokens, vocabulary)
    tokens.set(content, { ...token, id, special: token.special || known?.special === true })
  }
  const named = namedTokens(config)
  const extra = extraTokens(config)
  for (const flags of listedTokens(tokenizer, config, files, [...named, ...extra])) add(flags)
  for (const token of named) {
    const flags = typeof token === 'string' ? { content: token, normalized: false } : token
    if (!tokens.has(flags.content)) add({ ...flags, special: true })
  }
  for (const token of extra) {
    const flags = typeof token === 'string' ? { content: token, normalized: false, special: true } : token
    if (!tokens.has(flags.content)) add(flags)
  }
  return [...tokens.values()]
}

export function contentOf(token: NamedToken | null | undefined): string {
  return typeof token === 'string' ? token : (token?.content ?? '')
}

function listedTokens(
  tokenizer: TokenizerJson,
  config: TokenizerConfig,
  { addedTokens = {} }: Pick<TokenizerFiles, 'addedTokens'>,
  specials: readonly NamedToken[],
): Flags[] {
  const byId = <T>(entries: [number, T][]) => entries.sort(([a], [b]) => a - b).map(([, entry]) => entry)
  if (config.added_tokens_decoder) {
    return byId(Object.entries(config.added_tokens_decoder).map(([id, flags]) => [Number(id), flags]))
  }
  const special = new Set(specials.map(contentOf))
  const taken = new Set((tokenizer.added_tokens ?? []).map(({ id }) => id))
  return byId(
    Object.entries(addedTokens)
      .map(([content, id]): [number, Flags] => [
        Number(id),
        { content, special: special.has(content), normalized: !special.has(content) },
      ])
      .filter(([id]) => !taken.has(id)),
  )
}

/** Every setting that ends in _token, and what extra_special_tokens gives names to. */
function namedTokens(config: TokenizerConfig): NamedToken[] {
  const others = Object.keys(config).filter((key) => key.endsWith('_token') && !NAMED.includes(key))
  const extra = config.extra_special_tokens
  return [
    ...[...NAMED, ...others].map((key) => config[key]),
    ...(extra && !Array.isArray(extra) ? Object.values(extra) : []),
  ].filter((token): token is NamedToken => typeof token === 'string' || typeof (token as Flags)?.content === 'string')
}

function extraTokens(config: TokenizerConfig): NamedToken[] {
  const extra = config.extra_special_tokens
  return Array.isArray(extra) && extra.length > 0 ? extra : (config.additional_special_tokens ?? [])
}

function tokenOf(flags: Flags): Omit<AddedToken, 'id'> {
  const { content, single_word, lstrip, rstrip, special = false, normalized = !special } = flags
  return { content, singleWord: !!single_word, lstrip: !!lstrip, rstrip: !!rstrip, normalized, special }
}

function nextId(tokens: ReadonlyMap<string, AddedToken>, vocabulary: ReadonlyMap<string, number>): number {
  let highest = -1
  for (const { id } of tokens.values()) highest = Math.max(highest, id)
  return Math.max(highest + 1, vocabulary.size)
}
