/** load(): from a checkpoint to a model that answers. */
import type { NativeAddon, NativeModel } from '../binding.ts'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.ts'
import { readSamplingDefaults } from '../checkpoint/generation_defaults.ts'
import { readPooling } from '../checkpoint/pooling.ts'
import { MillraceError } from '../errors.ts'
import { locate } from '../hub/locate.ts'
import { readKernel } from '../lab/kernel.ts'
import { makeLog } from '../log.ts'
import { type LoadOptions, type LoadProgress, loadOptions } from '../options/model.ts'
import { checkDrafts } from '../options/speculation.ts'
import { validate } from '../options/validate.ts'
import { draftOptionsOf, planBeside } from '../plan/draft_model.ts'
import { checkMemory } from '../plan/memory.ts'
import { passCosts, predictionOf } from '../plan/plan.ts'
import { type LoadedTokenizer, loadTokenizer } from '../text/tokenizer/load.ts'
import {
  cacheFolder,
  cacheLimit,
  cacheObstacle,
  keepPacked,
  type ModelCache,
  packedFile,
  requirePacked,
} from './cache.ts'
import { checkVocabulary, nativeDraft, openDraft } from './draft_model.ts'
import { gpuMemoryFor, readMachine, readMemory } from './machine.ts'
import { Model } from './model.ts'
import { awaitNative, runtime } from './runtime.ts'
import { requireNotAborted } from './signals.ts'
import { loadWeights } from './weights.ts'

/**
 * Loads the model of a Hugging Face folder, a GGUF file, or a name of the hub ('owner/name', 'owner/name:file.gguf'), which
 * is fetched first. Rejects with INVALID_ARGUMENT, ADDON_NOT_BUILT, the CHECKPOINT_, TOKENIZER_ and HUB_ errors, WRITE_FAILED of
 * a download, OUT_OF_MEMORY, DEVICE_UNAVAILABLE or ABORTED; nothing but what was fetched is left behind then.
 */
export async function load(path: string, options: LoadOptions = {}): Promise<Model> {
  const checked = validate(loadOptions, options, 'options')
  const { signal, onProgress } = checked
  const report = (stage: LoadProgress['stage'], done: number, total: number) => onProgress?.({ stage, done, total })
  const log = makeLog(checked.logger)
  const began = performance.now()
  const release = runtime().hold()
  try {
    requireNotAborted(signal, 'the load')
    checkDrafts(checked.speculation, checked.draft !== undefined)
    const { native } = runtime()
    const probing = probeGpus(native, checked.device ?? 'auto')
    probing.catch(() => {}) // told below
    const place = await locate(path, checked)
    for (const warning of place.warnings) log.warn({ path: place.path }, warning)
    const checkpoint = await openCheckpoint(place.path, native, checked)
    const { folder } = checkpoint
    for (const warning of checkpoint.warnings) log.warn({ path: folder.path }, warning)
    const samplingDefaults =
      checked.generationConfig === 'none'
        ? {}
        : readSamplingDefaults(folder.generationConfig, (warning) => log.warn({ path: folder.path }, warning))
    report('checkpoint', folder.weightFiles.length, folder.weightFiles.length)
    requireNotAborted(signal, 'the load')
    const machine = readMachine(native, await probing)
    const { program } = checkpoint.config.named
    const asked = checked.draft === undefined ? undefined : draftOptionsOf(checked.draft)
    const draft = asked && (await openDraft(asked, native, checked))
    const beside = draft && { program: draft.config.named.program, slabs: draft.slabs, options: asked! }
    const copies = checked.prefixReuse === false ? { stateCopies: 0 } : {}
    const drafts = checked.speculation?.method === 'off' ? { stateDrafts: 0 } : {}
    const plan = planBeside(program, checkpoint.slabs, { ...drafts, ...checked, ...copies }, machine, beside)
    // A budget is the user's word, also where the system says less.
    if (checked.ramBudget === undefined) {
      const memory = readMemory(native)
      const taken = draft ? checkMemory(plan.draft!, memory, native.holdsWeights(draft.identity)) : 0
      const left = { ...memory, availableBytes: memory.availableBytes - taken }
      checkMemory(plan, left, native.holdsWeights(checkpoint.identity))
    }
    const kernels = await Promise.all(Object.entries(checked.kernels ?? {}).map((entry) => readKernel(...entry)))
    const keptIn = cacheFolder(checked.cache)
    const packed = packedFile(keptIn, folder, checkpoint.slabs, plan.fileBytes > 0)
    if (plan.fileBytes > 0) await requirePacked(keptIn, packed, log)
    const sourceOf = ({ folder, source, identity }: Checkpoint, packed = '') => {
      return { paths: folder.weightFiles, source, identity, packed }
    }
    // The tokenizer is read while the weights are, on its own thread.
    const failed = new AbortController()
    const weights = loadWeights(sourceOf(checkpoint, packed?.path), plan, {
      prefixReuse: checked.prefixReuse ?? true,
      deterministic: checked.deterministic ?? false,
      maxQueue: checked.maxQueue ?? 0,
      passCosts: passCosts(plan, machine),
      draft: draft && nativeDraft(sourceOf(draft), plan.draft!, machine),
      poison: checked.poison ?? false,
      kernels,
      signal: signal ? AbortSignal.any([signal, failed.signal]) : failed.signal,
      onProgress: (done, total) => report('weights', done, total),
    })
    weights.catch(() => {}) // told below
    let tokenizer: LoadedTokenizer | undefined
    try {
      tokenizer = await loadTokenizer(folder.path, signal && { signal })
      report('tokenizer', 1, 1)
      if (draft) {
        const tokens = Math.min(draft.config.spec.vocab, checkpoint.config.spec.vocab)
        await checkVocabulary(draft.folder.path, tokenizer, tokens, signal)
      }
    } catch (error) {
      failed.abort()
      tokenizer?.close()
      await weights.then(discard, () => {})
      throw error
    }
    const model = await weights.catch((error) => {
      tokenizer.close()
      throw error
    })
    const cache = packed && keptIn !== undefined ? { ...packed, state: 'writing' as ModelCache['state'] } : undefined
    // A process that has nothing else to do waits until the file is written.
    if (cache) keepPacked(model, cache, keptIn!, log, plan.fileBytes).finally(runtime().hold())
    else if (keptIn !== undefined) cacheLimit(log)
    const obstacle = cacheObstacle(checked.cache)
    if (obstacle !== undefined) log.warn({}, obstacle)
    const { device, contextLength, kvTokens, hostBytes, streamedBytesPerPass, fileBytesPerPass } = plan
    const { id } = model
    const ms = Math.round(performance.now() - began)
    const { headError, weightError } = model
    const figures = {
      device,
      contextLength,
      kvTokens,
      hostBytes,
      streamedBytesPerPass,
      ...(fileBytesPerPass > 0 && { fileBytesPerPass }),
      ...(headError && { headError }),
      ...(weightError && { weightError }),
    }
    const times = { ms, native: model.timings }
    log.info({ model: id, path: folder.path, ...figures, cache: cache?.state, ...times }, 'model loaded')
    const end = tokenizer.idOf(tokenizer.eosToken)
    return new Model({
      native: model,
      path: folder.path,
      architecture: checkpoint.config.architecture,
      spec: checkpoint.config.spec,
      plan,
      ring: checked.ring,
      gpuMemory: (now) => gpuMemoryFor(native, now),
      predict: (moved) => predictionOf(program, moved, readMachine(native)),
      tokenizer,
      cache,
      log,
      samplingDefaults,
      speculation: checked.speculation,
      pooling: await readPooling(folder.path, (message) => log.warn({}, message)),
      // Instruction-tuned checkpoints sometimes name the token that ends a turn in tokenizer_config.json alone.
      endTokens: [...new Set([...checkpoint.endTokens, ...(end === undefined ? [] : [end])])].filter(
        (token) => token < checkpoint.config.spec.vocab,
      ),
    })
  } catch (error) {
    const { code, message } = MillraceError.fromNative(error)
    // One that was told to end is no failure.
    if (code === 'ABORTED') log.debug({ path, code }, message)
    else log.error({ path, code, err: error }, `load failed: ${message}`)
    throw error
  } finally {
    release()
  }
}

async function discard(model: NativeModel): Promise<void> {
  runtime().removeModel(model.id)
  await awaitNative(() => model.close(false, 0))
}

/** A GPU takes a third of a second to start: it may do so while the checkpoint's headers are read. */
async function probeGpus(
  native: NativeAddon,
  device: string | readonly string[],
): Promise<ReturnType<NativeAddon['probeGpus']>> {
  const gpus = [device].flat().filter((one) => one !== 'cpu')
  const started = gpus.map((one) => native.startDevice(one === 'auto' || one === 'cuda' ? 'cuda:0' : one))
  return (await Promise.all(started))[0] ?? native.probeGpus()
}
