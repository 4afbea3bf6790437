/** One file of the hub into the cache: resumed where it was cut, and checked against the hash that the hub names. */
import { createHash, type Hash } from 'node:crypto'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { MillraceError } from '../errors.ts'
import { makeFolder, messageOf } from '../files.ts'
import { abortedError } from '../model/signals.ts'
import { blobFile, hasFile, repoFolder, unfinishedFile } from './cache.ts'
import { type HeldLock, LockLost, withFileLock } from './lock.ts'
import type { HubFile, HubRepository } from './repository.ts'
import { ask, asTransient, RangeRefused, Transient, Watch, withRetries } from './request.ts'
import type { HubSettings } from './settings.ts'
import { append, hashInto, isPointer, leaveToSleeper, readInto, takeAway } from './unfinished.ts'

export interface TransferOptions {
  signal?: AbortSignal | undefined
  /** Bytes of the file that are here now; fewer than before where it begins again. */
  onBytes?: ((bytes: number) => void) | undefined
}

/**
 * Resolves once the whole file lies in the cache, to the bytes that were fetched: 0 if it was there, or another process
 * fetched it meanwhile. What came before a failure is kept for the next try. Rejects with HUB_UNAVAILABLE,
 * HUB_ACCESS_DENIED, CHECKPOINT_NOT_FOUND, CHECKPOINT_INVALID, WRITE_FAILED or ABORTED.
 */
export async function fetchBlob(
  repository: HubRepository,
  file: HubFile,
  settings: HubSettings,
  options: TransferOptions = {},
): Promise<number> {
  const { cache } = settings
  const { repo } = repository
  if (await hasFile(cache, repository, file)) {
    options.onBytes?.(file.size)
    return 0
  }
  const lock = join(cache, '.locks', repoFolder('', repo), `${file.blob}.millrace`)
  let fetched = 0
  for (let losses = 0; ; losses++) {
    try {
      await withFileLock(
        lock,
        async (held) => {
          if (await hasFile(cache, repository, file)) return
          const transfer = new Transfer(repository, file, settings, options, held)
          await transfer.run().finally(() => {
            fetched += transfer.fetched
          })
        },
        { ...options, deadMs: settings.deadMs },
      )
      options.onBytes?.(file.size)
      return fetched
    } catch (error) {
      if (!(error instanceof LockLost)) throw error
      // Whoever has taken it over is waited for.
      if (losses === MOST_LOSSES) throw contended(repository, file, error)
    }
  }
}

/** So often a download that others take over is waited for. */
const MOST_LOSSES = 3

function contended({ repo }: HubRepository, { path }: HubFile, cause: Error): MillraceError {
  return new MillraceError('WRITE_FAILED', {
    message: `${path} of ${repo} was not written: other processes take its download over again and again`,
    remedy: 'end those that fetch the same model, and try again',
    cause,
  })
}

class Transfer {
  readonly #repository: HubRepository
  readonly #file: HubFile
  readonly #settings: HubSettings
  readonly #options: TransferOptions
  readonly #held: HeldLock
  /** The caller's, and that the lock is lost. */
  readonly #signal: AbortSignal
  readonly #target: string
  readonly #unfinished: string
  #hash!: Hash
  /** Bytes that are here, and the most that were. */
  #at = 0
  #best = 0
  /** Over the network. */
  fetched = 0

  constructor(
    repository: HubRepository,
    file: HubFile,
    settings: HubSettings,
    options: TransferOptions,
    held: HeldLock,
  ) {
    this.#repository = repository
    this.#file = file
    this.#settings = settings
    this.#options = options
    this.#held = held
    this.#signal = options.signal ? AbortSignal.any([options.signal, held.lost]) : held.lost
    this.#target = blobFile(settings.cache, repository.repo, file.blob)
    this.#unfinished = unfinishedFile(settings.cache, repository.repo, file.blob)
  }

  /** Rejects as fetchBlob() does, and with LockLost once another has taken it over. */
  async run(): Promise<void> {
    const { signal } = this.#options
    let handle: FileHandle | undefined
    try {
      await makeFolder(dirname(this.#target))
      if (this.#held.mayWake) await leaveToSleeper(this.#unfinished)
      handle = await open(this.#unfinished, 'a+').catch((error) => {
        throw this.#unwritten(error)
      })
      // What was left of another time may be wrong: then it is fetched once more from the start.
      let sound = await this.#fill(handle)
      if (!sound) {
        await handle.truncate(0)
        sound = await this.#fill(handle)
      }
      if (!sound) {
        await rm(await this.#takeAway(handle), { force: true })
        throw new MillraceError('CHECKPOINT_INVALID', {
          message: `${this.#repository.repo}: ${this.#file.path} came with another content than its hash ${this.#file.blob} says, twice`,
          remedy: 'try again later, or check HF_ENDPOINT and what is between this machine and the hub',
        })
      }
      await handle.sync().catch(() => {})
      await rename(await this.#takeAway(handle), this.#target)
    } catch (error) {
      if (signal?.aborted) throw abortedError(signal, 'the download')
      if (this.#held.lost.aborted) throw this.#held.lost.reason
      throw MillraceError.isInstance(error) || error instanceof LockLost ? error : this.#unwritten(error)
    } finally {
      await handle?.close().catch(() => {})
    }
  }

  async #takeAway(handle: FileHandle): Promise<string> {
    await this.#held.check()
    return takeAway(this.#unfinished, handle, this.#at, async (path) => {
      const hash = this.#newHash()
      return (await hashInto(hash, path, this.#file.size)) && hash.digest('hex') === this.#file.blob
    })
  }

  /** Appends what is missing; whether the whole is what the hash says. */
  async #fill(handle: FileHandle): Promise<boolean> {
    const { size, blob } = this.#file
    const signal = this.#signal
    this.#hash = this.#newHash()
    this.#at = await readInto(this.#hash, handle, size, signal)
    this.#best = this.#at
    this.#told()
    const whole = async () => this.#at === size || this.#receive(handle)
    await withRetries(whole, this.#settings, signal, () => this.#best)
    return this.#hash.digest('hex') === blob
  }

  /** One connection. */
  async #receive(handle: FileHandle): Promise<void> {
    const { repo, commit, revision } = this.#repository
    const { path, size } = this.#file
    const settings = this.#settings
    const url = `${settings.endpoint}/${repo}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`
    const watch = new Watch(settings, this.#signal)
    try {
      const range = this.#at > 0 ? { range: `bytes=${this.#at}-` } : undefined
      const response = await ask(url, { repo, revision, file: path }, settings, watch, range)
      const whole = response.status !== 206
      const encoded = /^(?!identity$)./i.test(response.headers.get('content-encoding') ?? '')
      // What is packed on its way has places of its own: of it only a whole answer is of use.
      if (this.#at > 0 && (whole || encoded || !continues(response, this.#at))) await this.#restart(handle)
      if (!whole && this.#at === 0 && range !== undefined) {
        await response.body?.cancel().catch(() => {})
        throw new Transient(`it sends another part of ${path} than was asked for`)
      }
      const body = response.body?.getReader()
      for (let done = body === undefined; !done; ) {
        const read = await body!.read().catch((error) => {
          throw asTransient(error, settings)
        })
        done = read.done
        if (read.value === undefined) continue
        watch.touch()
        const bytes = read.value.subarray(0, size - this.#at)
        await append(handle, bytes)
        this.#hash.update(bytes)
        this.#at += bytes.length
        this.#best = Math.max(this.#best, this.#at)
        this.fetched += bytes.length
        this.#told()
        if (bytes.length === read.value.length) continue
        // More than there should be: what is written is not the file, whatever its hash.
        this.#hash.update(read.value.subarray(bytes.length))
        await body!.cancel().catch(() => {})
        break
      }
      if (this.#at < size && (await isPointer(handle, this.#at))) {
        await this.#restart(handle)
        throw new MillraceError('CHECKPOINT_INVALID', {
          message: `${repo}: of ${path} the hub has a Git LFS pointer and not the content of ${size} bytes`,
          remedy: 'fetch it from where the content is: check HF_ENDPOINT, or tell whoever keeps the repository',
        })
      }
      if (this.#at < size)
        throw new Transient(`the connection was cut: ${path} ended after ${this.#at} of ${size} bytes`)
    } catch (error) {
      if (!(error instanceof RangeRefused)) throw error
      await this.#restart(handle)
      throw new Transient(`it refuses to go on with ${path} where the last download ended`)
    } finally {
      watch.stop()
    }
  }

  async #restart(handle: FileHandle): Promise<void> {
    await handle.truncate(0)
    this.#hash = this.#newHash()
    this.#at = 0
    this.#told()
  }

  #told(): void {
    this.#options.onBytes?.(this.#at)
  }

  #newHash(): Hash {
    const { blob, size } = this.#file
    // Small files have git's hash of a blob.
    return blob.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)
  }

  #unwritten(cause: unknown): MillraceError {
    const { code } = cause as NodeJS.ErrnoException
    const full = code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG'
    return new MillraceError('WRITE_FAILED', {
      message: `${this.#file.path} of ${this.#repository.repo} was not written to ${this.#unfinished}: ${messageOf(cause)}`,
      remedy: full
        ? 'make room there, or name another folder by HF_HUB_CACHE; what has come is kept and not fetched again'
        : 'name a folder that this user may write to by HF_HUB_CACHE',
      cause,
    })
  }
}

/** Whether a part goes on where the file ends. */
function continues(response: Response, from: number): boolean {
  return Number(/^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1]) === from
}
