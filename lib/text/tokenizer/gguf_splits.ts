/**
 * How text is cut before merging, by the name that a GGUF file has for it, `tokenizer.ggml.pre`. The names are those of
 * llama.cpp; the patterns those of the tokenizers that they stand for, where llama.cpp only comes near them.
 */
export interface Splitting {
  /** Applied one after the other, each to the pieces of those before it: what matches is a piece, and what is between. */
  patterns: readonly string[]
  /** A piece that is a token is that token, whatever merges say. */
  ignoreMerges?: boolean
  /** Where the file does not say. */
  addBos?: boolean
  /** Not in bytes but in characters, spaces being marked: as SentencePiece spells. */
  marked?: boolean
}

const SUFFIX = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
const LETTERS = '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+'
const SYMBOLS = ' ?[^\\s\\p{L}\\p{N}]+'
const LINES = '\\s*[\\r\\n]+'
const SPACES = '\\s+(?!\\S)|\\s+'
const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
const ASCII_PUNCTUATION = '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]'
const LINE_BY_LINE = '[^\\n]+|[\\n]+'

const either = (...patterns: string[]) => patterns.join('|')

const GPT2 = either("'s|'t|'re|'ve|'m|'ll|'d", ' ?\\p{L}+', ' ?\\p{N}+', SYMBOLS, SPACES)
/** Of Llama 3 and Qwen 2, but for the digits. */
const words = (digits: string) => either(SUFFIX, LETTERS, digits, `${SYMBOLS}[\\r\\n]*`, LINES, SPACES)

/** Words that begin where capitals do, as those of GPT-4o. `suffix`: what may follow them. */
function cased(digits: string, suffix: string, letter: (kind: string) => string = (kind) => kind): string {
  const before = '[^\\r\\n\\p{L}\\p{N}]?'
  return either(
    `${before}${letter(UPPER)}*${letter(LOWER)}+${suffix}`,
    `${before}${letter(UPPER)}+${letter(LOWER)}*${suffix}`,
    digits,
  )
}
const casedWords = (digits: string, suffix: string) =>
  either(cased(digits, suffix), `${SYMBOLS}[\\r\\n/]*`, LINES, SPACES)

/** Of DeepSeek V3. */
const deepseekWords = (symbolsEnd: string, lines: string) =>
  either(
    `${ASCII_PUNCTUATION}[A-Za-z]+`,
    '[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+',
    ` ?[\\p{P}\\p{S}]+${symbolsEnd}`,
    lines,
    SPACES,
  )
const KANJI_AND_KANA = `[${codePoints('4e00-9fa5 3040-309f 30a0-30ff')}]+`
const HAN_AND_HANGUL = `[${codePoints('4e00-9fa5 800-4e00 ac00-d7ff')}]+`

/** Letters that have a case, as DeepSeek's first tokenizers list them. */
const CASED_LETTERS = codePoints(
  '41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376-377 37b-37d 37f 386 388-38a 38c 38e-3a1',
  '3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a',
  '1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4',
  '1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128',
  '212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183-2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2-2cf3 a640-a66d',
  'a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3',
  '104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943',
)

const SCRIPTS_WITHOUT_SPACES = `[${codePoints(
  '4e00-9fff 3400-4dbf f900-faff 3040-309f 30a0-30ff ff65-ff9f 2f00-2fdf e40-e7f e80-eff 1780-17ff 1000-109f',
  'aa60-aa7f a9e0-a9ff ac00-d7af 1100-11ff',
)}]+`

/** Three digits each, counted from the last. */
const threesFromTheEnd = (digit: string, end: string) => `${digit}{1,3}(?=(?:${digit}{3})*${end})`

const BLOOM = ` ?[^(\\s|.,!?${codePoints('2026 3002 ff0c 3001 964 6d4 60c')})]+`

/** By name. */
export const SPLITTINGS: Readonly<Record<string, Splitting>> = {
  // Of files that do not say.
  default: { patterns: ['[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2, '\\p{N}+', '[0-9][0-9][0-9]'] },
  ...named(
    ['gpt-2', 'phi-2', 'olmo', 'mpt', 'jais', 'mellum', 'trillion', 'exaone4', 'gigachat', 'a.x-4.0', 'modern-bert'],
    { patterns: [GPT2] },
  ),
  ...named(['granite-docling', 'roberta-bpe', 'jina-es', 'jina-de', 'jina-v1-en', 'jina-v2-es', 'jina-v2-de'], {
    patterns: [GPT2],
  }),
  ...named(['jina-v2-code'], { patterns: [GPT2] }),
  ...named(['starcoder', 'refact', 'smollm', 'command-r', 'codeshell', 'exaone', 'minerva-7b', 'mellum2'], {
    patterns: ['\\p{N}', GPT2],
  }),
  falcon: { patterns: ['[\\p{P}\\$\\+<=>\\^~\\|`]+', GPT2, '[0-9][0-9][0-9]'] },
  ...named(['llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2', 'jina-v5-nano'], {
    patterns: [words('\\p{N}{1,3}')],
    ignoreMerges: true,
    addBos: true,
  }),
  ...named(['dbrx', 'smaug-bpe', 'glm4', 'chatglm-bpe'], { patterns: [words('\\p{N}{1,3}')] }),
  minicpm5: { patterns: ['\\p{N}{1,3}', words('\\p{N}+')], ignoreMerges: true },
  'jais-2': {
    patterns: [
      either(
        ...[SUFFIX, LETTERS, '\\p{N}{1,3}', `${SYMBOLS}[\\r\\n]*`, LINES],
        ...[512, 256, 128, 64, 32, 16, 8, 4].map((count) => `\\s{${count}}(?!\\S)`),
        ...['\\s{1,2}(?!\\S)', '\\s'],
      ),
    ],
  },
  ...named(
    ['qwen2', 'deepseek-r1-qwen', 'kormo', 'f2llmv2', 'megrez', 'stablelm2', 'hunyuan', 'solar-open', 'grok-2'],
    { patterns: [words('\\p{N}')] },
  ),
  laguna: { patterns: [LINE_BY_LINE, words('\\p{N}')] },
  ufakzeka: { patterns: [either(LETTERS, '\\p{N}', `${SYMBOLS}[\\r\\n]*`, LINES, SPACES)] },
  qwen35: {
    patterns: [
      either(
        ...[SUFFIX, '[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+', '\\p{N}', ' ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*'],
        ...[LINES, SPACES],
      ),
    ],
  },
  'seed-coder': {
    patterns: [either(SUFFIX, LETTERS, '\\p{N}', ' ?[^\\s\\p{L}\\p{N}\\r\\n]+', LINES, SPACES)],
  },
  ...named(['bailingmoe', 'bailingmoe2', 'llada-moe'], {
    patterns: [
      either(
        "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
        ...[LETTERS, '\\p{N}', `${SYMBOLS}[\\r\\n]*`, '\\s*[\\r\\n]', SPACES],
      ),
    ],
  }),
  'exaone-moe': {
    patterns: [
      either(
        ...[SUFFIX, '[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+', '\\p{N}'],
        ...[`${SYMBOLS}[\\r\\n/]?`, '\\s*[\\r\\n]', SPACES],
      ),
    ],
  },
  tekken: { patterns: [casedWords('\\p{N}', '')], ignoreMerges: true, addBos: true },
  ...named(['gpt-4o', 'llama4', 'kanana2', 'talkie', 'minimax-m2'], {
    patterns: [casedWords('\\p{N}{1,3}', `${SUFFIX}?`)],
  }),
  'granite-embed-multi-97m': { patterns: [casedWords('\\p{N}{1,3}', `${SUFFIX}?`)], ignoreMerges: true },
  ...named(['tiny_aya', 'cohere2moe'], {
    patterns: [threesFromTheEnd('\\d', '\\b'), casedWords('\\p{N}{1,3}', `${SUFFIX}?`)],
  }),
  youtu: {
    patterns: [
      either(
        `[${codePoints('ac00-d7a3 3131-318e')}]+`,
        `[${codePoints('ff01 2026 201c 201d 2018 2019 2014 ff1a ff1b ff0c 3001-303f fe30-fe4f')}]+`,
        ...[`[${codePoints('3105-312f')}]+`, KANJI_AND_KANA],
      ),
      casedWords('\\p{N}', `${SUFFIX}?`),
    ],
    ignoreMerges: true,
  },
  'kimi-k2': {
    patterns: [
      either(
        '\\p{Script=Han}+',
        cased('\\p{N}{1,3}', `${SUFFIX}?`, (kind) => `(?:(?!\\p{Script=Han})${kind})`),
        ...[`${SYMBOLS}[\\r\\n]*`, LINES, SPACES],
      ),
    ],
  },
  'deepseek-llm': {
    patterns: [
      '[\\r\\n]',
      `\\s?[${CASED_LETTERS}]+`,
      `\\s?[!-/:-~${codePoints('ff01-ff0f ff1a-ff5e 2018-201f 3000-3002')}]+`,
      '\\s+$',
      HAN_AND_HANGUL,
      '\\p{N}+',
    ],
  },
  'deepseek-coder': { patterns: ['[\\r\\n]', '\\s?\\p{L}+', '\\s?\\p{P}+', HAN_AND_HANGUL, '\\p{N}'] },
  ...named(['deepseek-v3', 'hunyuan-dense', 'hy_v4', 'joyai-llm'], {
    patterns: ['\\p{N}{1,3}', KANJI_AND_KANA, deepseekWords('[\\r\\n]*', LINES)],
  }),
  spark2_5: { patterns: ['\\p{N}{1,3}', KANJI_AND_KANA, deepseekWords('', '[\\r\\n]'), '\\p{N}'] },
  afmoe: {
    patterns: [threesFromTheEnd('\\p{N}', '(?!\\p{N})'), SCRIPTS_WITHOUT_SPACES, deepseekWords('[\\r\\n]*', LINES)],
  },
  superbpe: { patterns: ['\\p{N}+', threesFromTheEnd('\\d', '(?!\\d)')] },
  ...named(['bloom', 'poro-chat', 'gpt3-finnish'], { patterns: [BLOOM] }),
  viking: { patterns: [BLOOM, '\\p{N}'] },
  chameleon: {
    patterns: [
      ...['<sentinel:[0-9]+>', 'IMGIMG[A-I]{1,4}Z', '[\\t\\n]|    |  ', '\\p{N}'],
      ...['[\\p{P}!-/:-@\\[-`{-~]', GPT2],
    ],
    addBos: true,
  },
  ...named(['gemma4', 'granite-embed-multi-311m'], { patterns: [LINE_BY_LINE], marked: true, addBos: true }),
  'sarvam-moe': { patterns: [LINE_BY_LINE], marked: true },
}

function named(names: readonly string[], splitting: Splitting): Record<string, Splitting> {
  return Object.fromEntries(names.map((name) => [name, splitting]))
}

/** Code points and ranges of them, in hexadecimal -> what stands in a class of a pattern. */
function codePoints(...lists: string[]): string {
  const ends = (range: string) => range.split('-').map((end) => String.fromCodePoint(Number.parseInt(end, 16)))
  return lists.flatMap((list) => list.split(' ').map((range) => ends(range).join('-'))).join('')
}
