/**
 * The rotary embedding of config.json. It has been written in many ways: theta at top level beside `rope_scaling`, all in
 * `rope_parameters`, or there once a layer type. Read as transformers 5 reads them; what would be lost on the way there is
 * refused or told.
 */
import { z } from 'zod'
import type { RopeSpec } from '../binding.ts'
import type { Architecture } from './architectures/architecture.ts'
import type { Warn } from './config.ts'
import { CONFIG_FILE, type Fields, invalidField, unsupportedField } from './fields.ts'
import { fieldBoolean, fieldInteger, fieldNumber, fieldText, isObject, show } from './json.ts'
import { isNeutral } from './keys.ts'

/** The native side's bound, far beyond any published model. */
const LONGEST_CONTEXT = 2 ** 27

const DEFAULT_THETA = 10000

/** What each type reads beside what all may have. */
const FIELDS = {
  default: [],
  linear: ['factor'],
  dynamic: ['factor'],
  llama3: ['factor', 'low_freq_factor', 'high_freq_factor'],
  yarn: ['factor', 'attention_factor', 'beta_fast', 'beta_slow', 'mscale', 'mscale_all_dim', 'truncate'],
  longrope: ['factor', 'attention_factor', 'short_factor', 'long_factor'],
  proportional: ['factor'],
} as const
/** Of architectures that name them, and what they are called in older files. */
const OWN_TYPES: readonly string[] = ['longrope', 'proportional']
const OLDER_NAMES: Readonly<Record<string, string>> = { su: 'longrope' }
// `finetuned`: how the weights came about.
const FIELDS_OF_ALL = [
  'type',
  'rope_type',
  'rope_theta',
  'partial_rotary_factor',
  'original_max_position_embeddings',
  'finetuned',
]

/** A rope of no scaling. */
export const UNSCALED: Omit<RopeSpec, 'headDim' | 'rotary'> = {
  theta: DEFAULT_THETA,
  scaling: 'none',
  factor: 1,
  lowFrequencyFactor: 1,
  highFrequencyFactor: 4,
  originalMaxPosition: 0,
  attentionFactor: 1,
  betaFast: 32,
  betaSlow: 1,
  truncate: true,
}

interface Rope {
  rope: RopeSpec
  maxPosition: number
}

/** One set of parameters, and the path of fields that leads to it. */
interface Parameters {
  path: string
  values: Record<string, unknown>
}

export interface Ropes {
  /** By type of layer. */
  ropes: ReadonlyMap<string, RopeSpec>
  /** How long a context they make of it. */
  maxPosition: number
}

/** What the parameters are read for. */
interface Head {
  headDim: number
  architecture: Pick<Architecture, 'defaults' | 'ropeTypes' | 'ropeFields'>
}

/** The rotary embeddings of layers of these types. */
export function readRopes(
  config: Fields,
  maxPosition: number,
  layerTypes: readonly string[],
  headDimOf: (type: string) => number,
  architecture: Head['architecture'],
  warn: Warn,
): Ropes {
  const parameters = chooseParameters(config, warn)
  const { values } = parameters
  // null stands there for layers without a rotation.
  const nested = Object.keys(values).filter((key) => isObject(values[key]) || layerTypes.includes(key))
  const all = layerTypes.map((type): [string, Rope] => {
    const own = nested.length === 0 ? parameters : parametersOf(parameters, nested, type)
    const head = { headDim: headDimOf(type), architecture }
    return [
      type,
      resolve(config, own, maxPosition, head, type === layerTypes[0] || nested.length > 0 ? warn : () => {}),
    ]
  })
  return {
    ropes: new Map(all.map(([type, { rope }]) => [type, rope])),
    maxPosition: Math.max(...all.map(([, rope]) => rope.maxPosition)),
  }
}

/** rope_scaling, if it says anything, holds alone. */
function chooseParameters(config: Fields, warn: Warn): Parameters {
  const { rope_scaling: older, rope_parameters: newer } = config
  const said = (object: object | null | undefined) => object != null && Object.keys(object).length > 0
  if (!said(older)) return { path: 'rope_parameters', values: newer ?? {} }
  const chosen = { path: 'rope_scaling', values: older! }
  if (!said(newer) || JSON.stringify(older) === JSON.stringify(newer)) return chosen
  // The theta of rope_parameters would be lost with them, which nobody means who adds a scaling.
  const theta = older!.rope_theta ?? config.rope_theta ?? DEFAULT_THETA
  const lost = [newer!, ...Object.values(newer!).filter(isObject)].find(
    ({ rope_theta: other }) => other != null && other !== theta,
  )
  if (lost) {
    throw invalidField(
      'rope_scaling.rope_theta',
      `the rope_theta of rope_parameters, ${show(lost.rope_theta)}, since rope_scaling holds in place of rope_parameters`,
      older!.rope_theta ?? config.rope_theta,
    )
  }
  warn(`${CONFIG_FILE}: 'rope_scaling' is read, and 'rope_parameters' beside it is not, as in transformers`)
  return chosen
}

/** The parameters of one layer type. */
function parametersOf({ path, values }: Parameters, nested: readonly string[], type: string): Parameters {
  if (!nested.includes(type)) throw invalidField(path, `parameters of ${type}`, nested)
  const own = values[type]
  if (!isObject(own)) throw unsupportedField(`${path}.${type}`, 'an object', own)
  const shared = Object.fromEntries(
    Object.entries(values).filter(([key, value]) => !nested.includes(key) && value != null),
  )
  for (const [key, value] of Object.entries(shared)) {
    if (own[key] != null && own[key] !== value) {
      throw invalidField(`${path}.${key}`, `what ${path}.${type}.${key} says, ${show(own[key])}`, value)
    }
  }
  return { path: `${path}.${type}`, values: { ...shared, ...own } }
}

function resolve(
  config: Fields,
  { path, values }: Parameters,
  maxPosition: number,
  { headDim, architecture }: Head,
  warn: Warn,
): Rope {
  const typeField = values.rope_type == null && values.type != null ? 'type' : 'rope_type'
  const said = check(fieldText(), `${path}.${typeField}`, values[typeField]) ?? 'default'
  const own: readonly string[] = architecture.ropeTypes ?? []
  const type = own.includes(OLDER_NAMES[said] ?? '') ? OLDER_NAMES[said]! : said
  if (!Object.hasOwn(FIELDS, type) || (OWN_TYPES.includes(type) && !own.includes(type))) {
    const names = ['default', 'linear', 'dynamic', 'llama3', ...(own.length > 0 ? ['yarn', ...own.slice(0, -1)] : [])]
    throw unsupportedField(`${path}.${typeField}`, `${names.join(', ')} or ${own.at(-1) ?? 'yarn'}`, said)
  }
  const number = (name: string) => check(fieldNumber(0), `${path}.${name}`, values[name])
  const require = (name: string) => {
    const value = number(name)
    if (value === undefined) throw invalidField(`${path}.${name}`, `a number for rope type '${type}'`, values[name])
    return value
  }
  const longer = (length: number) => {
    if (length > LONGEST_CONTEXT)
      throw invalidField(`${path}.factor`, `a context of at most ${LONGEST_CONTEXT}`, length)
    return Math.max(maxPosition, Math.floor(length))
  }
  const partial = (field: string, found: unknown) => {
    if (architecture.defaults.partialRotary === undefined && type !== 'proportional') refusePartial(field, found)
    return check(fieldNumber(0), field, found)
  }
  const beside = partial('partial_rotary_factor', config.partial_rotary_factor)
  const share =
    partial(`${path}.partial_rotary_factor`, values.partial_rotary_factor) ??
    beside ??
    architecture.defaults.partialRotary ??
    1
  const rotary = type === 'proportional' ? 2 * Math.floor((headDim * share) / 2) : Math.trunc(headDim * share)
  if (rotary > headDim || rotary < 2 || rotary % 2 !== 0) {
    throw invalidField(`${path}.partial_rotary_factor`, `an even part of a head's ${headDim} elements`, share)
  }
  tellUnread(path, type as keyof typeof FIELDS, values, architecture.ropeFields ?? [], warn)

  const rope: RopeSpec = {
    headDim,
    rotary,
    ...UNSCALED,
    theta:
      number('rope_theta') ??
      check(fieldNumber(0), 'rope_theta', config.rope_theta) ??
      architecture.defaults.theta ??
      DEFAULT_THETA,
  }
  switch (type as keyof typeof FIELDS) {
    case 'default':
      return { rope, maxPosition }
    case 'linear':
      return { rope: { ...rope, scaling: 'linear', factor: require('factor') }, maxPosition }
    case 'dynamic': {
      // Theta is that of the greatest length from the first token on: a key's rotation may not depend on what follows.
      const factor = require('factor')
      return {
        rope: { ...rope, scaling: 'dynamic', factor, originalMaxPosition: maxPosition },
        maxPosition: longer(maxPosition * factor),
      }
    }
    case 'llama3': {
      const llama3: RopeSpec = {
        ...rope,
        scaling: 'llama3',
        factor: require('factor'),
        lowFrequencyFactor: require('low_freq_factor'),
        highFrequencyFactor: require('high_freq_factor'),
        originalMaxPosition: originalMaxPosition(config, path, values) ?? maxPosition,
      }
      return { rope: llama3, maxPosition }
    }
    case 'yarn': {
      const original = originalMaxPosition(config, path, values) ?? maxPosition
      const factor = number('factor') ?? maxPosition / original
      const scale = (name: string) => check(fieldNumber(Number.NEGATIVE_INFINITY), `${path}.${name}`, values[name])
      // As in Python, 0 is as good as nothing.
      const turns = (name: string, otherwise: number) => (values[name] === 0 ? otherwise : (number(name) ?? otherwise))
      const yarn: RopeSpec = {
        ...rope,
        scaling: 'yarn',
        factor,
        originalMaxPosition: original,
        attentionFactor: number('attention_factor') ?? yarnAttention(factor, scale('mscale'), scale('mscale_all_dim')),
        betaFast: turns('beta_fast', UNSCALED.betaFast),
        betaSlow: turns('beta_slow', UNSCALED.betaSlow),
        truncate: check(fieldBoolean(), `${path}.truncate`, values.truncate) ?? true,
      }
      return { rope: yarn, maxPosition: longer(original * factor) }
    }
    // The pairs that turn are those of a whole head's first half; exponents are counted over the whole head.
    case 'proportional':
      return { rope: { ...rope, span: headDim, scaling: 'linear', factor: number('factor') ?? 1 }, maxPosition }
    case 'longrope': {
      const original = originalMaxPosition(config, path, values) ?? maxPosition
      const factor = number('factor') ?? maxPosition / original
      const factors = (name: string) => {
        const schema = z.array(fieldNumber(0), { error: 'an array of numbers' })
        const found = check(schema, `${path}.${name}`, values[name])
        if (found?.length === rotary / 2) return found
        throw invalidField(`${path}.${name}`, `${rotary / 2} numbers, one a pair of elements`, found?.length)
      }
      const attention = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original))
      const longrope: RopeSpec = {
        ...rope,
        originalMaxPosition: original,
        attentionFactor: number('attention_factor') ?? attention,
        factors: factors('short_factor'),
        longFactors: factors('long_factor'),
      }
      return { rope: longrope, maxPosition }
    }
  }
}

/**
 * transformers 5 lets what stands beside one set of parameters win over what stands in it, and does not look there for
 * parameters by layer type: nobody can tell which was meant.
 */
function originalMaxPosition(config: Fields, path: string, values: Record<string, unknown>): number | undefined {
  const name = 'original_max_position_embeddings'
  const beside = check(fieldInteger(1), name, config[name])
  const inside = check(fieldInteger(1), `${path}.${name}`, values[name])
  if (!path.includes('.')) return beside ?? inside
  if (inside === undefined && beside !== undefined && beside !== config.max_position_embeddings) {
    throw invalidField(`${path}.${name}`, `a number there, since parameters by layer type are read alone`, values[name])
  }
  return inside
}

function refusePartial(field: string, found: unknown): void {
  if (found != null && found !== 1) throw unsupportedField(field, '1', found)
}

function tellUnread(
  path: string,
  type: keyof typeof FIELDS,
  values: Record<string, unknown>,
  own: readonly string[],
  warn: Warn,
): void {
  const read: readonly string[] = [...FIELDS_OF_ALL, ...FIELDS[type], ...own]
  const unread = Object.keys(values).filter((key) => !read.includes(key) && !isNeutral(key, values[key]))
  if (unread.length === 0) return
  warn(
    `${CONFIG_FILE}: field '${path}': not read for rope type '${type}', as in transformers: ${unread.map(show).join(', ')}`,
  )
}

/** A field's value if it is there; null is as good as absent. */
function check<Value>(schema: z.ZodType<Value>, field: string, found: unknown): Value | undefined {
  if (found == null) return undefined
  const outcome = schema.safeParse(found)
  if (outcome.success) return outcome.data
  throw invalidField(field, outcome.error.issues[0]!.message, found)
}

/** YaRN's 1 / sqrt(temperature) (Peng et al. 2023, section 3.4), with DeepSeek's two scales where both are given. */
function yarnAttention(factor: number, scale: number | undefined, ofAll: number | undefined): number {
  const attention = (by: number) => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1)
  return scale && ofAll ? attention(scale) / attention(ofAll) : attention(1)
}
