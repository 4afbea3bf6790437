/** Sliding windows, as transformers reads them. */
import { checkField, type Fields, invalidField, unsupportedField } from '../fields.ts'
import { fieldBoolean, fieldInteger } from '../json.ts'

/** Transformers' MistralConfig, Qwen2Config and Qwen3Config alike. */
const DEFAULT_WINDOW = 4096
const DEFAULT_MAX_WINDOW_LAYERS = 28

/** The fields that readQwenWindow reads. */
export const QWEN_WINDOW_FIELDS = ['sliding_window', 'use_sliding_window', 'max_window_layers'] as const

/** The window of a model whose layers from `firstLayer` on have one, unless layer_types says which; 0: none. */
export function readWindow(config: Fields, firstLayer: number): number {
  const { sliding_window: said, layer_types: types, num_hidden_layers: layers } = config
  const window = said === undefined ? DEFAULT_WINDOW : checkField(fieldInteger(1), 'sliding_window', said)
  const sliding = types
    ? types.filter((type) => type === 'sliding_attention').length
    : layers - Math.min(layers, firstLayer)
  if (window === undefined) {
    if (types && sliding > 0) throw invalidField('sliding_window', 'the window of layer_types', said)
    return 0
  }
  if (sliding === 0) return 0
  if (sliding === layers) return window
  throw types
    ? unsupportedField('layer_types', 'one type for all layers', [...new Set(types)])
    : unsupportedField('max_window_layers', `0, or at least num_hidden_layers (${layers})`, firstLayer)
}

/** Mistral's, of every layer: it reads no layer_types, which must not say otherwise. */
export function readMistralWindow(config: Fields): number {
  const window = readWindow(config, 0)
  if (window > 0 || config.sliding_window == null) return window
  throw invalidField('layer_types', 'sliding_attention, by sliding_window', config.layer_types![0])
}

export function readQwenWindow(config: Fields): number {
  const first = checkField(fieldInteger(0), 'max_window_layers', config.max_window_layers)
  const used = checkField(fieldBoolean(), 'use_sliding_window', config.use_sliding_window)
  return used ? readWindow(config, first ?? DEFAULT_MAX_WINDOW_LAYERS) : 0
}
