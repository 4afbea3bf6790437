/** millrace: language models whose weights stream from system memory. */
export type { Home, KvType, NativeUnit as ModelUnit, RopeSpec, WeightType } from './binding.ts'
export type { GgufQuantisation } from './checkpoint/gguf/types.ts'
export type {
  AwqQuantisation,
  CompressedTensorsQuantisation,
  Fp8Quantisation,
  GptqQuantisation,
  GptqRule,
  MixedQuantisation,
  Mxfp4Quantisation,
  Nvfp4Quantisation,
  Quantisation,
  UniformQuantisation,
} from './checkpoint/quantisation/index.ts'
export type { ModelSpec } from './checkpoint/spec.ts'
export { CompiledConstraint, compileConstraint } from './constraint/constraint.ts'
export type {
  ChoiceConstraint,
  Constraint,
  GrammarConstraint,
  JsonConstraint,
  JsonSchema,
  ObjectOf,
  RegexConstraint,
  SchemaConstraint,
} from './constraint/types.ts'
export { type ErrorCode, MillraceError } from './errors.ts'
export type { CachedModel } from './hub/list.ts'
export { listModels, type RemovedModel, removeModel } from './hub/manage.ts'
export { type HubOptions, type PulledModel, pull } from './hub/pull.ts'
export type { Logger } from './log.ts'
export { type CacheEntry, clearCache, listCache, type ModelCache } from './model/cache.ts'
export { type CalibrateOptions, type CalibrationReport, calibrate } from './model/calibrate.ts'
export { type CalibrateDiskOptions, calibrateDisk, type DiskReport } from './model/disk.ts'
export type { EmbedResult } from './model/embedding.ts'
export type {
  FinishReason,
  Generation,
  GenerationChunk,
  GenerationResult,
  TokenLogprob,
} from './model/generation.ts'
export { type Inspection, type InspectOptions, inspect } from './model/inspect.ts'
export { load } from './model/load.ts'
export type { Model, ModelMemory, ModelStats, Prompt } from './model/model.ts'
export { type PlanModelOptions, plan } from './model/plan.ts'
export { type ModelsPlan, type PlanModelsOptions, type PlannedModel, planModels } from './model/plan_models.ts'
export type { RequestTimings } from './model/request.ts'
export type { ScoreResult } from './model/score.ts'
export type {
  CloseOptions,
  DraftOptions,
  HeadType,
  LoadOptions,
  LoadProgress,
  PlacementHome,
  PlanOptions,
} from './options/model.ts'
export type {
  ChatMessage,
  ChatOptions,
  ChatTemplateOptions,
  ChatTool,
  EmbedOptions,
  GenerateOptions,
  ScheduleOptions,
  ScoreOptions,
} from './options/request.ts'
/** The options of an answer, one row each: its schema, its default, and its name over HTTP where it has one. */
export { answerRows as answerOptions } from './options/sampling.ts'
export type { Speculation } from './options/speculation.ts'
/** '256MiB' -> 268435456; undefined if the text is no size. */
export { parseBytes } from './options/validate.ts'
export type { Calibration, Curve, UnitCurves } from './plan/calibration.ts'
export type { DescribedGpu, DescribedMachine } from './plan/described.ts'
export type { DraftPrediction } from './plan/drafts.ts'
export type { FewAndMany, LayerBytes, Observations, PerShape } from './plan/fit.ts'
export type { PlannedKv } from './plan/kv.ts'
export type { ModelPlan, PlannedDevice, PlannedUnit } from './plan/plan.ts'
export type { CostedUnit, DecodePrediction, Prediction, PrefillPrediction } from './plan/predict.ts'
export { type CpuReport, type GpuReport, type ProbeOptions, type ProbeReport, probe } from './probe.ts'
export type { Part as ChatPart } from './text/chat/parts.ts'
export type { GeneratedToolCall, TextPart, ToolCall } from './text/chat/types.ts'
export type { EncodeOptions, SpecialTokens, TextCodec } from './text/tokenizer/codec.ts'
export { type LoadedTokenizer, loadTokenizer, type TokenizerOptions } from './text/tokenizer/load.ts'
export type { Truncation } from './text/truncate.ts'
