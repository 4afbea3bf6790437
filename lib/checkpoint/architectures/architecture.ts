/** What one architecture does otherwise than Llama. */
import { z } from 'zod'
import type { Activation } from '../../binding.ts'
import type { BiasedPart, DecoderShape, LayerShape } from '../decoder.ts'
import { CONFIG_FILE, type Fields } from '../fields.ts'
import { checkFields } from '../json.ts'

export interface Architecture {
  /** Stands for the architecture where `architectures` is absent. */
  modelType: string
  /** Those of its class in transformers. */
  defaults: {
    maxPosition: number
    kvHeads?: number
    headDim?: number
    /** 1e-6 where it is left out. */
    epsilon?: number
    theta?: number
    tied?: boolean
    /** The part of each head that turns. Where it is left out, config.json may say no other than all of it. */
    partialRotary?: number
    originalMaxPosition?: number
  }
  /** Fields that a config.json may leave out. */
  absent?: Readonly<Record<string, unknown>>
  /** Words of `hidden_act` and what they stand for; SiLU alone where it is left out. */
  activations?: Readonly<Record<string, Activation>>
  /** The field that the activation is in. */
  activationField?: 'hidden_act' | 'hidden_activation'
  /** Types of rope beside those that all have. */
  ropeTypes?: readonly ('longrope' | 'proportional')[]
  /** Keys among rope's parameters that the architecture reads itself. */
  ropeFields?: readonly string[]
  /** Layers with and without a window have ropes of their own: their thetas, and an older field's name of one. */
  ropesByType?: { full: number; sliding: number; slidingField?: string }
  /** Size of the heads of a type of layer, where it is not head_dim. */
  headDimOf?: (config: Fields, type: string) => number | undefined
  /** Types of layers beside full attention and windows. */
  layerTypes?: readonly string[]
  /** By layer, positions that a row sees; 0: all before it. Absent: the architecture has no windows. */
  windows?: (config: Fields) => number[]
  /** What it does otherwise than `llama` does by the same fields. */
  decoder?: (config: Fields, llama: DecoderShape) => DecoderShape
  /** Fields that it reads beside those that all do (keys.ts). */
  fields: readonly string[]
}

/** Reads fields that one architecture has. Throws CHECKPOINT_INVALID. */
export function ownFields<Shape extends z.ZodRawShape>(shape: Shape) {
  const schema = z.looseObject(shape)
  return (config: Fields) => checkFields(schema, config as Record<string, unknown>, CONFIG_FILE)
}

export const QKV: readonly BiasedPart[] = ['query', 'key', 'value']
export const ATTENTION: readonly BiasedPart[] = [...QKV, 'output']
export const FEED_FORWARD: readonly BiasedPart[] = ['gate', 'up', 'down']

/** The same decoder, its layers with other parts. */
export function withLayers(
  shape: DecoderShape,
  other: (layer: LayerShape, index: number) => Partial<LayerShape>,
): DecoderShape {
  return {
    ...shape,
    layer: (index) => {
      const layer = shape.layer(index)
      return { ...layer, ...other(layer, index) }
    },
  }
}

export const withBiases = (shape: DecoderShape, biases: readonly BiasedPart[]): DecoderShape =>
  withLayers(shape, () => ({ biases }))
