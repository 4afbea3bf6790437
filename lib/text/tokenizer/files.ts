/** A tokenizer's files, checked: tokenizer.json, tokenizer_config.json, and the older ones that say more of special tokens. */
import { createHash } from 'node:crypto'
import { open, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { readGgufTokenizer } from '../../checkpoint/gguf/tokenizer.ts'
import { readJson, readText } from '../../checkpoint/json.ts'
import { MillraceError } from '../../errors.ts'
import type { DecoderConfig } from './decoder.ts'
import { ggufTokenizerFiles } from './gguf.ts'
import type { NormalizerConfig } from './normalizer.ts'
import type { PreTokenizerConfig } from './pretokenizer.ts'
import type { ModelConfig } from './words.ts'

const TOKENIZER = 'tokenizer.json'
const CONFIG = 'tokenizer_config.json'
const ADDED = 'added_tokens.json'
const SPECIAL = 'special_tokens_map.json'
const TEMPLATE = 'chat_template.jinja'

/** Far beyond any vocabulary; a table has a row for every id. */
export const MAX_ID = 2 ** 24
const id = z.int().min(0).max(MAX_ID)

const flags = {
  content: z.string(),
  single_word: z.boolean().optional(),
  lstrip: z.boolean().optional(),
  rstrip: z.boolean().optional(),
  normalized: z.boolean().optional(),
  special: z.boolean().optional(),
}
const addedToken = z.looseObject({ id, ...flags })
const namedToken = z.union([z.string(), z.looseObject(flags)])

const decoderSchema: z.ZodType<DecoderConfig> = z.looseObject({
  type: z.string(),
  get decoders() {
    return z.array(decoderSchema).optional()
  },
  pattern: z.looseObject({ String: z.string().optional(), Regex: z.string().optional() }).optional(),
  content: z.string().optional(),
  replacement: z.string().optional(),
  prepend_scheme: z.string().optional(),
  add_prefix_space: z.boolean().nullish(),
  start: z.number().optional(),
  stop: z.number().optional(),
})

/** Normalizers and pre-tokenizers are checked where they are compiled, by the types that they name. */
const part = <T extends { type: string }>() =>
  z.looseObject({ type: z.string() }).nullish() as unknown as z.ZodType<T | null | undefined>

const postProcessorSchema: z.ZodType<PostProcessorConfig> = z.looseObject({
  type: z.string(),
  get processors() {
    return z.array(postProcessorSchema).optional()
  },
  single: z
    .array(
      z.looseObject({
        Sequence: z.looseObject({}).optional(),
        SpecialToken: z.looseObject({ id: z.string().optional() }).optional(),
      }),
    )
    .optional(),
  special_tokens: z.record(z.string(), z.looseObject({ ids: z.array(id).optional() })).optional(),
  cls: z.tuple([z.string(), id]).optional(),
  sep: z.tuple([z.string(), id]).optional(),
})

const tokenizerSchema = z.looseObject({
  added_tokens: z.array(addedToken).nullish(),
  normalizer: part<NormalizerConfig>(),
  pre_tokenizer: part<PreTokenizerConfig>(),
  post_processor: postProcessorSchema.nullish(),
  decoder: decoderSchema.nullish(),
  model: z.looseObject({}) as unknown as z.ZodType<ModelConfig>,
})

const configSchema = z.looseObject({
  tokenizer_class: z.string().nullish(),
  add_bos_token: z.boolean().nullish(),
  add_eos_token: z.boolean().nullish(),
  add_prefix_space: z.boolean().nullish(),
  clean_up_tokenization_spaces: z.boolean().nullish(),
  bos_token: namedToken.nullish(),
  eos_token: namedToken.nullish(),
  added_tokens_decoder: z.record(z.string(), z.looseObject(flags)).nullish(),
  additional_special_tokens: z.array(namedToken).nullish(),
  extra_special_tokens: z.union([z.array(namedToken), z.record(z.string(), namedToken)]).nullish(),
})

export interface PostProcessorConfig {
  type: string
  processors?: PostProcessorConfig[] | undefined
  single?: { Sequence?: object | undefined; SpecialToken?: { id?: string | undefined } | undefined }[] | undefined
  special_tokens?: Record<string, { ids?: number[] | undefined }> | undefined
  cls?: [string, number] | undefined
  sep?: [string, number] | undefined
}

export type NamedToken = z.output<typeof namedToken>
/** tokenizer.json and tokenizer_config.json, as far as they are read here. */
export type TokenizerJson = z.output<typeof tokenizerSchema>
export type TokenizerConfig = z.output<typeof configSchema>

/** The files as they were read, and the chat templates. */
export interface TokenizerFiles {
  tokenizer: Record<string, unknown>
  config: Record<string, unknown>
  /** added_tokens.json: text to id. */
  addedTokens?: Record<string, unknown> | undefined
  /** special_tokens_map.json. */
  specialTokens?: Record<string, unknown> | undefined
  /** A text, or a list of named ones, unless the file has something else there. */
  templates?: unknown
}

/** Of a GGUF file, what is taken for its metadata: those of real vocabularies are 4 to 9 MB. */
const GGUF_HEAD_BYTES = 32 << 20

const isFile = async (path: string) => (await stat(path).catch(() => undefined))?.isFile() ?? false

/** The files of a folder, or what a GGUF file says in their place. Throws TOKENIZER_INVALID, of GGUF CHECKPOINT_ errors. */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  if (await isFile(folder)) return ggufTokenizerFiles(readGgufTokenizer(folder))
  const json = (name: string) => readJson(join(folder, name), 'TOKENIZER_INVALID')
  const tokenizer = await json(TOKENIZER)
  if (!tokenizer) {
    throw new MillraceError('TOKENIZER_INVALID', {
      message: `${folder}: expected tokenizer.json, found none`,
      remedy: 'fetch tokenizer.json, or convert the tokenizer with transformers (save_pretrained of a fast tokenizer)',
    })
  }
  const config = (await json(CONFIG)) ?? {}
  return {
    tokenizer,
    config,
    addedTokens: await json(ADDED),
    specialTokens: await json(SPECIAL),
    templates: (await readText(join(folder, TEMPLATE), 'TOKENIZER_INVALID')) ?? config.chat_template ?? undefined,
  }
}

/** What the files of a folder, or the head of a GGUF file, hold, as a key: the same for the same tokenizer, wherever it lies. */
export async function hashTokenizerFiles(folder: string): Promise<string> {
  const hash = createHash('sha256')
  if (await isFile(folder)) {
    const file = await open(folder)
    try {
      const head = Buffer.alloc(Math.min(GGUF_HEAD_BYTES, (await file.stat()).size))
      const { bytesRead } = await file.read(head, 0, head.length, 0)
      return hash.update(head.subarray(0, bytesRead)).digest('hex')
    } finally {
      await file.close()
    }
  }
  for (const name of [TOKENIZER, CONFIG, ADDED, SPECIAL, TEMPLATE]) {
    const bytes = await readFile(join(folder, name)).catch(() => undefined)
    // Files that cannot be read are told of where they are read.
    hash.update(`${name} ${bytes?.length ?? -1}\n`)
    if (bytes) hash.update(bytes)
  }
  return hash.digest('hex')
}

/** Throws TOKENIZER_INVALID that names the first wrong field. */
export function checkFiles(files: TokenizerFiles): { tokenizer: TokenizerJson; config: TokenizerConfig } {
  const config = files.config.added_tokens_decoder
    ? files.config
    : // The newer file has all that the older one had.
      { ...files.config, ...files.specialTokens }
  return {
    tokenizer: check(tokenizerSchema, files.tokenizer, TOKENIZER),
    config: check(configSchema, config, CONFIG),
  }
}

function check<Schema extends z.ZodType>(schema: Schema, value: unknown, file: string): z.output<Schema> {
  const outcome = schema.safeParse(value)
  if (outcome.success) return outcome.data
  const issue = outcome.error.issues[0]!
  throw new MillraceError('TOKENIZER_INVALID', {
    message: `${file}: field '${issue.path.join('.')}': ${issue.message.replace(/^Invalid input: /, '')}`,
  })
}
