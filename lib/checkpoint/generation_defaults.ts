/** How a checkpoint's authors would have its answers sampled: generation_config.json. */
import { type NativeSampling, sampling } from '../options/sampling.ts'

/** As generation_config.json spells them. */
const NAMES = {
  temperature: 'temperature',
  top_k: 'topK',
  top_p: 'topP',
  min_p: 'minP',
  typical_p: 'typicalP',
  repetition_penalty: 'repetitionPenalty',
} as const satisfies Record<string, keyof NativeSampling>

export type SamplingDefaults = Partial<NativeSampling>

/**
 * As vLLM reads the file: what it names counts, unless `do_sample` is false, which means greedy. A value that no request
 * could name is told of and left out.
 */
export function readSamplingDefaults(
  config: Readonly<Record<string, unknown>>,
  warn: (message: string) => void,
): SamplingDefaults {
  const defaults: SamplingDefaults = {}
  for (const [field, name] of Object.entries(NAMES)) {
    const said = config[field]
    if (said === undefined || said === null) continue
    // -1: among all, which is 0 here.
    const value = field === 'top_k' && said === -1 ? 0 : said
    const outcome = sampling[name].schema.safeParse(value)
    if (outcome.success) defaults[name] = outcome.data
    else warn(`generation_config.json: field '${field}' is ${JSON.stringify(said)}, which is left out`)
  }
  if (config.do_sample === false) defaults.temperature = 0
  // What transformers and vLLM take where the file names none.
  else if (config.do_sample === true) defaults.temperature ??= 1
  return defaults
}
