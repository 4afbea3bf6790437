/** tokenizer.json and tokenizer_config.json of a checkpoint. */
import { join } from 'node:path'
import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers'
import { z } from 'zod'
import { readJson } from '../checkpoint/json.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument } from '../options/validate.ts'
import { detokenize } from './detokenizer.ts'
import { makePieces, type Pieces } from './pieces.ts'

const CONFIG_FILE = 'tokenizer_config.json'

const token = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish()

const configSchema = z.looseObject({
  tokenizer_class: z.string().nullish(),
  add_bos_token: z.boolean().nullish(),
  bos_token: token,
  eos_token: token,
  unk_token: token,
  pad_token: token,
  chat_template: z.union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))]).nullish(),
})

const decoderSchema: z.ZodType<import('./pieces.ts').DecoderConfig> = z.looseObject({
  type: z.string(),
  get decoders() {
    return z.array(decoderSchema).optional()
  },
  pattern: z.looseObject({ String: z.string().optional(), Regex: z.string().optional() }).optional(),
  content: z.string().optional(),
  replacement: z.string().optional(),
  start: z.number().optional(),
  stop: z.number().optional(),
})

const tokenizerSchema = z.looseObject({
  added_tokens: z
    .array(z.looseObject({ id: z.int().min(0), content: z.string(), special: z.boolean().optional() }))
    .nullish(),
  decoder: decoderSchema.nullish(),
  model: z.looseObject({}),
})

/** tokenizer_config.json, as far as it is read here. */
export type TokenizerConfig = z.output<typeof configSchema>

/** The two files as they were read. */
export interface TokenizerFiles {
  tokenizer: Record<string, unknown>
  config: Record<string, unknown>
}

/** Reads the files of a folder. Throws TOKENIZER_INVALID. */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const tokenizer = await readJson(join(folder, 'tokenizer.json'), 'TOKENIZER_INVALID')
  if (!tokenizer) {
    throw new MillraceError('TOKENIZER_INVALID', {
      message: `${folder}: expected tokenizer.json, found none`,
      remedy: 'fetch tokenizer.json, or convert the tokenizer with transformers (save_pretrained of a fast tokenizer)',
    })
  }
  return { tokenizer, config: (await readJson(join(folder, CONFIG_FILE), 'TOKENIZER_INVALID')) ?? {} }
}

/** tokenizer_config.json alone. Throws TOKENIZER_INVALID. */
export async function readTokenizerConfig(folder: string): Promise<TokenizerConfig> {
  const config = await readJson(join(folder, CONFIG_FILE), 'TOKENIZER_INVALID')
  return check(configSchema, config ?? {}, CONFIG_FILE)
}

export class Tokenizer {
  readonly config: TokenizerConfig
  readonly bosToken: string
  readonly eosToken: string
  readonly pieces: Pieces
  readonly #hub: HubTokenizer
  readonly #bos: number | undefined
  /** undefined: leave it to the post-processor of tokenizer.json. */
  readonly #addBos: boolean | undefined

  constructor(files: TokenizerFiles) {
    this.config = check(configSchema, files.config, CONFIG_FILE)
    const { added_tokens: added, decoder } = check(tokenizerSchema, files.tokenizer, 'tokenizer.json')
    try {
      this.#hub = new HubTokenizer(files.tokenizer, files.config)
    } catch (cause) {
      throw new MillraceError('TOKENIZER_INVALID', {
        message: `tokenizer.json could not be read: ${(cause as Error).message}`,
        cause,
      })
    }
    this.pieces = makePieces(this.#hub.get_vocab(false), added ?? [], decoder)
    this.bosToken = contentOf(this.config.bos_token)
    this.eosToken = contentOf(this.config.eos_token)
    this.#bos = this.bosToken === '' ? undefined : this.#hub.token_to_id(this.bosToken)
    // As transformers does: of Llama's own tokenizer classes the setting rules over the file's post-processor, and is
    // true where absent; of others it can only add.
    const llama = /^Llama(Tokenizer|TokenizerFast)$/.test(this.config.tokenizer_class ?? '')
    const wanted = this.config.add_bos_token ?? (llama ? true : undefined)
    this.#addBos = wanted === false && !llama ? undefined : wanted
  }

  /** Tokens of a text; with the tokenizer's own first and last tokens unless `specialTokens` is false. */
  encode(text: string, specialTokens = true): number[] {
    if (typeof text !== 'string') throw invalidArgument('a text', 'text', text)
    // A lone surrogate has no UTF-8 form.
    const { ids } = this.#hub.encode(text.replace(/\p{Surrogate}/gu, '\uFFFD'), { add_special_tokens: specialTokens })
    if (!specialTokens || this.#bos === undefined || this.#addBos === undefined) return ids
    const begins = ids[0] === this.#bos
    if (this.#addBos) return begins ? ids : [this.#bos, ...ids]
    return begins && !text.startsWith(this.bosToken) ? ids.slice(1) : ids
  }

  /** The text of tokens; special tokens show nothing. */
  decode(tokens: ArrayLike<number>): string {
    if (!Array.isArray(tokens) && !ArrayBuffer.isView(tokens)) {
      throw invalidArgument('token ids', 'tokens', tokens)
    }
    return detokenize(this.pieces, tokens)
  }

  /** The id of a token's text, such as '<|im_end|>'; undefined if it is not in the vocabulary. */
  idOf(text: string): number | undefined {
    return this.#hub.token_to_id(text)
  }
}

function contentOf(value: z.output<typeof token>): string {
  return typeof value === 'string' ? value : (value?.content ?? '')
}

function check<Schema extends z.ZodType>(schema: Schema, value: unknown, file: string): z.output<Schema> {
  const outcome = schema.safeParse(value)
  if (outcome.success) return outcome.data
  const issue = outcome.error.issues[0]!
  throw new MillraceError('TOKENIZER_INVALID', {
    message: `${file}: field '${issue.path.join('.')}': ${issue.message.replace(/^Invalid input: /, '')}`,
  })
}
