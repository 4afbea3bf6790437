/** The special tokens that templates may name: bos_token, eos_token, and what else the tokenizer's settings have. */

type Settings = Record<string, unknown>

const textOf = (value: unknown): string | undefined => {
  if (typeof value === 'string') return value
  const content = (value as { content?: unknown } | null | undefined)?.content
  return typeof content === 'string' ? content : undefined
}

/**
 * Of tokenizer_config.json: every `..._token`, `additional_special_tokens`, and the names of `extra_special_tokens`;
 * null ones stay undefined, as in transformers.
 */
export function specialTokensOf(settings: Settings): Record<string, string | string[]> {
  const tokens: Record<string, string | string[]> = {}
  for (const [name, value] of Object.entries(settings)) {
    const text = name.endsWith('_token') ? textOf(value) : undefined
    if (text !== undefined) tokens[name] = text
  }
  for (const group of [settings.extra_special_tokens, settings.model_specific_special_tokens]) {
    if (typeof group !== 'object' || group === null || Array.isArray(group)) continue
    for (const [name, value] of Object.entries(group)) {
      const text = textOf(value)
      if (text !== undefined) tokens[name] = text
    }
  }
  const additional = settings.additional_special_tokens
  const texts = Array.isArray(additional) ? additional.map(textOf).filter((text) => text !== undefined) : []
  if (texts.length > 0) tokens.additional_special_tokens = texts
  return tokens
}
