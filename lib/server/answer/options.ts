/** Options of answers as requests name them -> those of generate() and chat(): one table, the library's own. */
import { z } from 'zod'
import { answerOptions, type Constraint, type GenerateOptions } from '../../index.ts'
import { flag, integer, list, optional, record, text } from '../http/body.ts'
import { invalid } from '../http/problem.ts'

/** What each API words its own way. */
const APART = ['maxTokens', 'stop', 'seed', 'logprobs', 'topLogprobs', 'topK', 'priority', 'logitBias'] as const

type Named = { wire?: string; schema: z.ZodType }
const rows = Object.entries<Named>(answerOptions).filter(
  ([name, { wire }]) => wire && !APART.some((one) => one === name),
)

const stopError = 'a text that is not empty, or a list of such'
const stopText = () => z.string({ error: stopError }).min(1, { error: stopError })

/** What every kind of answer takes, by OpenAI's names, then vLLM's. */
export const answerShape = {
  ...(Object.fromEntries(rows.map(([, { wire, schema }]) => [wire!, optional(schema)])) as Record<
    string,
    z.ZodType<unknown>
  >),
  model: optional(text()),
  temperature: optional(answerOptions.temperature.schema),
  top_p: optional(answerOptions.topP.schema),
  stream: optional(flag()),
  n: optional(integer(1, 128)),
  seed: optional(integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)),
  stop: optional(z.union([stopText(), z.array(stopText())], { error: stopError })),
  /** vLLM's -1 is its 0: all. */
  top_k: optional(integer(-1, 2 ** 31 - 1)),
  /** As vLLM has it: lower goes first. */
  priority: optional(integer(-(2 ** 31) + 1, 2 ** 31 - 1)),
  logit_bias: optional(answerOptions.logitBias.schema),
  stream_options: optional(z.looseObject({ include_usage: optional(flag()) }, { error: 'an object' })),
  response_format: optional(
    z.discriminatedUnion(
      'type',
      [
        z.looseObject({ type: z.literal('text') }),
        // With a schema as llama.cpp and others have it.
        z.looseObject({ type: z.literal('json_object'), schema: optional(record('a JSON schema')) }),
        z.looseObject({
          type: z.literal('json_schema'),
          json_schema: z.looseObject(
            { name: optional(text()), schema: optional(record('a JSON schema')) },
            { error: "an object such as { name: 'answer', schema: { ... } }" },
          ),
        }),
      ],
      { error: "an object whose type is 'text', 'json_object' or 'json_schema'" },
    ),
  ),
  structured_outputs: optional(
    z.looseObject({
      json: optional(z.union([record('a JSON schema'), z.string()])),
      regex: optional(text()),
      choice: optional(list(text(), 'a list of texts')),
      grammar: optional(text()),
      json_object: optional(flag()),
    }),
  ),
  guided_json: optional(z.union([record('a JSON schema'), z.string()], { error: 'a JSON schema' })),
  guided_regex: optional(text()),
  guided_choice: optional(list(text(), 'a list of texts')),
  guided_grammar: optional(text()),
} satisfies z.ZodRawShape

export type AnswerRequest = z.output<z.ZodObject<typeof answerShape>>
export type AnswerOptions = GenerateOptions

const SEEDS = 2 ** 53

/** Without limits and log-probabilities, which each API words its own way. */
export function answerOptionsOf(request: AnswerRequest): AnswerOptions {
  const given = request as Record<string, unknown>
  const options: Record<string, unknown> = {}
  for (const [name, { wire }] of rows) if (given[wire!] !== undefined) options[name] = given[wire!]
  const { seed, stop, top_k: topK, priority, logit_bias: biases } = request
  if (seed !== undefined) options.seed = seed < 0 ? seed + SEEDS : seed
  if (stop !== undefined && stop.length > 0) options.stop = stop
  if (topK !== undefined) options.topK = Math.max(0, topK)
  // 0 is never -0 here.
  if (priority !== undefined) options.priority = 0 - priority
  if (biases !== undefined) options.logitBias = new Map(biases)
  const constraint = constraintOf(request)
  if (constraint) options.constraint = constraint
  return options
}

function constraintOf(request: AnswerRequest): Constraint | undefined {
  const { response_format: format, structured_outputs: outputs = {} } = request
  const found: [name: string, constraint: Constraint][] = []
  if (format && format.type !== 'text') {
    const { schema } = format.type === 'json_object' ? format : format.json_schema
    found.push(['response_format', schema ? { schema } : { json: true }])
  }
  const guided = {
    guided_json: request.guided_json ?? outputs.json,
    guided_regex: request.guided_regex ?? outputs.regex,
    guided_choice: request.guided_choice ?? outputs.choice,
    guided_grammar: request.guided_grammar ?? outputs.grammar,
  }
  if (outputs.json_object) found.push(['structured_outputs', { json: true }])
  if (guided.guided_json !== undefined) found.push(['guided_json', { schema: schemaOf(guided.guided_json) }])
  if (guided.guided_regex !== undefined) found.push(['guided_regex', { regex: guided.guided_regex }])
  if (guided.guided_choice !== undefined) found.push(['guided_choice', { choice: guided.guided_choice }])
  if (guided.guided_grammar !== undefined) found.push(['guided_grammar', { grammar: guided.guided_grammar }])
  if (found.length > 1) {
    throw invalid(`expected one constraint but received ${found.map(([name]) => name).join(' and ')}`, found[1]![0])
  }
  return found[0]?.[1]
}

function schemaOf(given: string | Record<string, unknown>): Record<string, unknown> {
  if (typeof given !== 'string') return given
  try {
    const value: unknown = JSON.parse(given)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  } catch {}
  throw invalid('expected a JSON schema for guided_json but received a text that is none', 'guided_json')
}
