/** load(): from a checkpoint's folder to a model that answers. */
import type { NativeModel } from '../binding.ts'
import { openCheckpoint } from '../checkpoint/checkpoint.ts'
import { MillraceError } from '../errors.ts'
import { type LoadOptions, type LoadProgress, loadOptions, validate } from '../options.ts'
import { KV_BLOCK_TOKENS, MAX_LOGIT_ROWS, type ModelPlan, makePlan } from '../plan/plan.ts'
import { ChatTemplate, readChatTemplate } from '../text/chat.ts'
import { TokenizerThread } from '../text/thread.ts'
import { readTokenizerFiles, Tokenizer } from '../text/tokenizer.ts'
import { readMachine } from './machine.ts'
import { Model } from './model.ts'
import { awaitNative, runtime } from './runtime.ts'
import { abortedError, onAbort } from './signals.ts'

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
  const release = runtime().hold()
  try {
    checkAborted()
    const { native } = runtime()
    const checkpoint = await openCheckpoint(directory, native)
    report('checkpoint', checkpoint.folder.weightFiles.length, checkpoint.folder.weightFiles.length)
    checkAborted()
    const plan = makePlan(checkpoint.config.spec, checkpoint.slabs, checked, readMachine(native))
    const tokenizer = new Tokenizer(await readTokenizerFiles(checkpoint.folder.path))
    const template = await readChatTemplate(checkpoint.folder.path, tokenizer.config)
    const chatTemplate = template === undefined ? undefined : new ChatTemplate(template)
    report('tokenizer', 1, 1)
    checkAborted()
    const model = await loadWeights(checkpoint, plan, checked.poison ?? false, signal, (done, total) =>
      report('weights', done, total),
    )
    const end = tokenizer.idOf(tokenizer.eosToken)
    return new Model({
      native: model,
      path: checkpoint.folder.path,
      architecture: checkpoint.config.architecture,
      spec: checkpoint.config.spec,
      plan,
      tokenizer,
      tokenizerThread: new TokenizerThread(tokenizer, checkpoint.folder.path),
      chatTemplate,
      // Instruction-tuned checkpoints sometimes name the token that ends a turn in tokenizer_config.json alone.
      endTokens: [...new Set([...checkpoint.endTokens, ...(end === undefined ? [] : [end])])].filter(
        (token) => token < checkpoint.config.spec.vocab,
      ),
    })
  } finally {
    release()
  }
}

async function loadWeights(
  checkpoint: Awaited<ReturnType<typeof openCheckpoint>>,
  plan: ModelPlan,
  poison: boolean,
  signal: AbortSignal | undefined,
  onProgress: (done: number, total: number) => void,
): Promise<NativeModel> {
  const { native } = runtime()
  let callbackFailure: { error: unknown } | undefined
  const loadId = runtime().addLoad((done, total) => {
    if (callbackFailure) return
    try {
      onProgress(done, total)
    } catch (error) {
      callbackFailure = { error }
      native.cancelLoad(loadId)
    }
  })
  const offAbort = signal && onAbort(signal, () => native.cancelLoad(loadId))
  try {
    const model = await awaitNative(() =>
      native.load({
        paths: checkpoint.folder.weightFiles,
        source: checkpoint.source,
        identity: checkpoint.identity,
        device: plan.device,
        homes: plan.units.map((unit) => unit.home),
        ringBytes: plan.ringBytes,
        contextLength: plan.contextLength,
        kvBlocks: plan.kvTokens / KV_BLOCK_TOKENS,
        maxRows: plan.maxRows,
        maxLogitRows: MAX_LOGIT_ROWS,
        threads: plan.threads,
        poison,
        loadId,
      }),
    )
    // The load may have been done when the cancel came.
    if (signal?.aborted || callbackFailure) {
      await awaitNative(() => model.close(false, 0))
      throw callbackFailure ? callbackFailure.error : abortedError(signal!, 'the load')
    }
    return model
  } catch (error) {
    if (callbackFailure) throw callbackFailure.error
    if (signal?.aborted && MillraceError.isInstance(error)) throw abortedError(signal, 'the load')
    throw error
  } finally {
    offAbort?.()
    runtime().removeLoad(loadId)
  }
}
