/** load(): from a checkpoint's folder to a model that answers. */
import { openCheckpoint } from '../checkpoint/checkpoint.ts'
import { MillraceError } from '../errors.ts'
import { readKernel } from '../lab/kernel.ts'
import { makeLog } from '../log.ts'
import { type LoadOptions, type LoadProgress, loadOptions, validate } from '../options.ts'
import { checkMemory } from '../plan/memory.ts'
import { makePlan, predictionOf } from '../plan/plan.ts'
import { ChatTemplate, readChatTemplate } from '../text/chat.ts'
import { TokenizerThread } from '../text/thread.ts'
import { readTokenizerFiles, Tokenizer } from '../text/tokenizer.ts'
import { gpuMemoryFor, readMachine, readMemory } from './machine.ts'
import { Model } from './model.ts'
import { runtime } from './runtime.ts'
import { abortedError } from './signals.ts'
import { loadWeights } from './weights.ts'

/**
 * Loads the model of a Hugging Face folder. Rejects with INVALID_ARGUMENT, ADDON_NOT_BUILT, the CHECKPOINT_ and
 * TOKENIZER_ errors, OUT_OF_MEMORY, DEVICE_UNAVAILABLE or ABORTED; nothing is left behind then.
 */
export async function load(directory: string, options: LoadOptions = {}): Promise<Model> {
  const checked = validate(loadOptions, options, 'options')
  const { signal, onProgress } = checked
  const report = (stage: LoadProgress['stage'], done: number, total: number) => onProgress?.({ stage, done, total })
  const checkAborted = () => {
    if (signal?.aborted) throw abortedError(signal, 'the load')
  }
  const log = makeLog(checked.logger)
  const began = performance.now()
  const release = runtime().hold()
  try {
    checkAborted()
    const { native } = runtime()
    const checkpoint = await openCheckpoint(directory, native, checked.head)
    report('checkpoint', checkpoint.folder.weightFiles.length, checkpoint.folder.weightFiles.length)
    checkAborted()
    const plan = makePlan(checkpoint.config.spec, checkpoint.slabs, checked, readMachine(native))
    // A budget is the user's word, also where the system says less.
    if (checked.ramBudget === undefined) {
      checkMemory(plan, readMemory(native), native.holdsWeights(checkpoint.identity))
    }
    const tokenizer = new Tokenizer(await readTokenizerFiles(checkpoint.folder.path))
    const template = await readChatTemplate(checkpoint.folder.path, tokenizer.config)
    const chatTemplate = template === undefined ? undefined : new ChatTemplate(template)
    report('tokenizer', 1, 1)
    checkAborted()
    const kernels = await Promise.all(Object.entries(checked.kernels ?? {}).map((entry) => readKernel(...entry)))
    const source = {
      paths: checkpoint.folder.weightFiles,
      source: checkpoint.source,
      identity: checkpoint.identity,
    }
    const model = await loadWeights(source, plan, {
      prefixReuse: checked.prefixReuse ?? true,
      deterministic: checked.deterministic ?? false,
      maxQueue: checked.maxQueue ?? 0,
      poison: checked.poison ?? false,
      kernels,
      signal,
      onProgress: (done, total) => report('weights', done, total),
    })
    const { device, contextLength, kvTokens, hostBytes, streamedBytesPerPass } = plan
    const { id } = model
    const ms = Math.round(performance.now() - began)
    const { headError } = model
    const figures = {
      device,
      contextLength,
      kvTokens,
      hostBytes,
      streamedBytesPerPass,
      ...(headError && { headError }),
    }
    log.info({ model: id, path: checkpoint.folder.path, ...figures, ms }, 'model loaded')
    const end = tokenizer.idOf(tokenizer.eosToken)
    return new Model({
      native: model,
      path: checkpoint.folder.path,
      architecture: checkpoint.config.architecture,
      spec: checkpoint.config.spec,
      plan,
      ring: checked.ring,
      gpuMemory: (now) => gpuMemoryFor(native, now),
      predict: (moved) => predictionOf(checkpoint.config.spec, moved, readMachine(native)),
      tokenizer,
      tokenizerThread: new TokenizerThread(tokenizer, checkpoint.folder.path),
      chatTemplate,
      log,
      // Instruction-tuned checkpoints sometimes name the token that ends a turn in tokenizer_config.json alone.
      endTokens: [...new Set([...checkpoint.endTokens, ...(end === undefined ? [] : [end])])].filter(
        (token) => token < checkpoint.config.spec.vocab,
      ),
    })
  } catch (error) {
    const { code, message } = MillraceError.fromNative(error)
    log.error({ path: directory, code, err: error }, `load failed: ${message}`)
    throw error
  } finally {
    release()
  }
}
