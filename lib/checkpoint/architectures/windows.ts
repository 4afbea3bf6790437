/** Sliding windows, as transformers reads them. */
import { type Fields, unsupportedField } from '../fields.ts'

/** Transformers' MistralConfig, Qwen2Config and Qwen3Config alike. */
const DEFAULT_WINDOW = 4096
const DEFAULT_MAX_WINDOW_LAYERS = 28

/** The fields that readQwenWindow reads. */
export const QWEN_WINDOW_FIELDS = ['sliding_window', 'use_sliding_window', 'max_window_layers'] as const

/** The window of a model whose layers from `firstLayer` on have one; 0: none. */
export function readWindow(config: Fields, firstLayer: number): number {
  const window = config.sliding_window === undefined ? DEFAULT_WINDOW : config.sliding_window
  if (window === null) return 0
  const types = config.layer_types
  const layers = config.num_hidden_layers
  const sliding = types
    ? types.filter((type) => type === 'sliding_attention').length
    : layers - Math.min(layers, firstLayer)
  if (sliding === 0) return 0
  if (sliding === layers) return window
  throw types
    ? unsupportedField('layer_types', 'one type for all layers', [...new Set(types)])
    : unsupportedField('max_window_layers', `0, or at least num_hidden_layers (${layers})`, firstLayer)
}

export function readQwenWindow(config: Fields): number {
  return config.use_sliding_window ? readWindow(config, config.max_window_layers ?? DEFAULT_MAX_WINDOW_LAYERS) : 0
}
