/** Sliding windows by layer, as transformers reads them. */
import type { Fields } from '../fields.ts'

/** Of Qwen2Config and Qwen3Config alike. */
const QWEN_WINDOW = 4096
const QWEN_MAX_WINDOW_LAYERS = 28

/** The fields that readQwenWindows reads. */
export const QWEN_WINDOW_FIELDS = ['sliding_window', 'use_sliding_window', 'max_window_layers'] as const

/**
 * `otherwise`: the window of a config that names none. Layers have it as `layer_types` says, or where it does not, those
 * for which `slides` holds.
 */
export function readWindows(
  config: Fields,
  otherwise: number,
  slides: (layer: number) => boolean = () => true,
): number[] {
  const window = config.sliding_window === undefined ? otherwise : config.sliding_window
  return Array.from({ length: config.num_hidden_layers }, (_, layer) => {
    const type = config.layer_types?.[layer]
    const sliding = type === undefined ? slides(layer) : type === 'sliding_attention'
    return sliding ? (window ?? 0) : 0
  })
}

/** All layers but every so-manieth. */
export const everyButEach = (pattern: number) => (layer: number) => (layer + 1) % pattern !== 0

/** By `sliding_window_pattern`: a number, or a word of L and G that is repeated. */
export function byPattern({ sliding_window_pattern: pattern }: Fields, otherwise: number) {
  if (typeof pattern === 'string') return (layer: number) => pattern[layer % pattern.length] === 'L'
  return everyButEach(pattern || otherwise)
}

export function readQwenWindows(config: Fields): number[] {
  if (!config.use_sliding_window) return Array(config.num_hidden_layers).fill(0)
  const first = config.max_window_layers ?? QWEN_MAX_WINDOW_LAYERS
  return readWindows(config, QWEN_WINDOW, (layer) => layer >= first)
}
