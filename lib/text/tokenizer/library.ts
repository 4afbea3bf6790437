/** What is used of @huggingface/tokenizers, whose own types do not resolve under Node's rules. */
import * as library from '@huggingface/tokenizers'

interface Words {
  tokens_to_ids: Map<string, number>
  unk_token_id?: number
  /** As the file has it. */
  config: unknown
  vocab: unknown[]
  /** Pieces of words, as the vocabulary spells them or not. */
  encode(words: string[]): string[]
}
interface Text {
  normalize(text: string): string
}
type Made<T, Rest extends unknown[] = []> = new (config: object, ...rest: Rest) => T

export const { Unigram, WordPiece, BertNormalizer, PrecompiledNormalizer, SplitPreTokenizer } = library as unknown as {
  Unigram: Made<Words, [endToken: string]>
  WordPiece: Made<Words>
  BertNormalizer: Made<Text>
  PrecompiledNormalizer: Made<Text>
  SplitPreTokenizer: Made<{ pattern: RegExp }>
}
