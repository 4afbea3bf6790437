/** What a checkpoint's settings say of its linears. */

/** One entry of GPTQModel's `dynamic`: what its pattern matches from the beginning of a module's name. */
export interface GptqRule {
  /** A regular expression, without its sign. */
  pattern: string
  /** `-:`: modules of this name are not quantised. */
  excluded: boolean
  /** What is said otherwise than for all. */
  bits?: number
  groupSize?: number
  symmetric?: boolean
}

export interface GptqQuantisation {
  method: 'gptq'
  bits: 4 | 8
  /** Rows that share a scale; -1: all of a column. */
  groupSize: number
  symmetric: boolean
  /** What the settings say; the file's g_idx decides. */
  actOrder: boolean
  /** Version 1 stores zero - 1, version 2 the zero itself. */
  format: 'gptq' | 'gptq_v2'
  /** The first that matches holds. */
  rules: GptqRule[]
}

export interface AwqQuantisation {
  method: 'awq'
  bits: 4
  groupSize: number
  symmetric: boolean
  format: 'gemm'
  /** Modules whose names contain one of these are not quantised. */
  excluded: string[]
}

export interface CompressedTensorsQuantisation {
  method: 'compressed-tensors'
  bits: 4 | 8
  /** -1: strategy `channel`. */
  groupSize: number
  symmetric: boolean
  /** `group`: the file's weight_g_idx decides. */
  actOrder: boolean
  format: 'pack-quantized' | 'int-quantized'
  /** Names, or `re:` and a regular expression, of modules that are not quantised. */
  excluded: string[]
}

/** e4m3 weights with float scales. What activations would be rounded to is not: they stay as they are. */
export interface Fp8Quantisation {
  method: 'fp8'
  bits: 8
  /** Of a block that has a scale, input features; -1: all of them. */
  groupSize: number
  /** Rows of a block; 1: each has its own, -1: one scale for the tensor. */
  blockRows: number
  symmetric: true
  excluded: string[]
}

/** E2M1 weights, e4m3 scales of 16, a float32 scale of the tensor. */
export interface Nvfp4Quantisation {
  method: 'nvfp4'
  bits: 4
  groupSize: 16
  symmetric: true
  /** Whose names of the tensors they are. */
  format: 'modelopt' | 'nvfp4-pack-quantized'
  excluded: string[]
}

/** E2M1 weights with a power of two for every 32. */
export interface Mxfp4Quantisation {
  method: 'mxfp4'
  bits: 4
  groupSize: 32
  symmetric: true
  /** Whose names of the tensors they are. */
  format: 'mxfp4-pack-quantized' | 'gpt-oss'
  excluded: string[]
}

/** How all linears are stored that are quantised at all. */
export type UniformQuantisation =
  | GptqQuantisation
  | AwqQuantisation
  | CompressedTensorsQuantisation
  | Fp8Quantisation
  | Nvfp4Quantisation
  | Mxfp4Quantisation

/** Linears that are stored in several ways. */
export interface MixedQuantisation {
  method: 'mixed'
  /** Who says so. */
  format: 'compressed-tensors' | 'modelopt'
  groups: {
    /** Names, `re:` and a regular expression, or `Linear` for all that no other group names. */
    targets: string[]
    quantisation: UniformQuantisation
  }[]
  excluded: string[]
}

export type Quantisation = { method: 'none' } | UniformQuantisation | MixedQuantisation

/** The settings of one module. */
export type ModuleSettings =
  | { quantised: false; reason?: string }
  | {
      quantised: true
      /** What it is stored as. */
      of: UniformQuantisation
      bits: number
      groupSize: number
      symmetric: boolean
      reason?: string
    }
