/** One file of the hub into the cache: resumed where it was cut, and checked against the hash that the hub names. */
import { createHash, type Hash } from 'node:crypto'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { MillraceError } from '../errors.ts'
import { makeFolder, messageOf } from '../files.ts'
import { abortedError } from '../model/signals.ts'
import { blobFile, hasFile, repoFolder, unfinishedFile } from './cache.ts'
import { withFileLock } from './lock.ts'
import type { HubFile, HubRepository } from './repository.ts'
import { ask, asTransient, RangeRefused, Transient, Watch, withRetries } from './request.ts'
import type { HubSettings } from './settings.ts'

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
  const fetched = await withFileLock(
    lock,
    async () => {
      if (await hasFile(cache, repository, file)) return 0
      return await new Transfer(repository, file, settings, options).run()
    },
    options,
  )
  options.onBytes?.(file.size)
  return fetched
}

class Transfer {
  readonly #repository: HubRepository
  readonly #file: HubFile
  readonly #settings: HubSettings
  readonly #options: TransferOptions
  readonly #target: string
  readonly #unfinished: string
  #hash!: Hash
  /** Bytes that are here, and the most that were. */
  #at = 0
  #best = 0
  #fetched = 0

  constructor(repository: HubRepository, file: HubFile, settings: HubSettings, options: TransferOptions) {
    this.#repository = repository
    this.#file = file
    this.#settings = settings
    this.#options = options
    this.#target = blobFile(settings.cache, repository.repo, file.blob)
    this.#unfinished = unfinishedFile(settings.cache, repository.repo, file.blob)
  }

  async run(): Promise<number> {
    const { signal } = this.#options
    let handle: FileHandle | undefined
    try {
      await makeFolder(dirname(this.#target))
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
        await rm(this.#unfinished, { force: true })
        throw new MillraceError('CHECKPOINT_INVALID', {
          message: `${this.#repository.repo}: ${this.#file.path} came with another content than its hash ${this.#file.blob} says, twice`,
          remedy: 'try again later, or check HF_ENDPOINT and what is between this machine and the hub',
        })
      }
      await handle.sync().catch(() => {})
      await rename(this.#unfinished, this.#target)
      return this.#fetched
    } catch (error) {
      if (signal?.aborted) throw abortedError(signal, 'the download')
      throw MillraceError.isInstance(error) ? error : this.#unwritten(error)
    } finally {
      await handle?.close().catch(() => {})
    }
  }

  /** Appends what is missing; whether the whole is what the hash says. */
  async #fill(handle: FileHandle): Promise<boolean> {
    const { size, blob } = this.#file
    const { signal } = this.#options
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
    const watch = new Watch(settings, this.#options.signal)
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
        await write(handle, bytes)
        this.#hash.update(bytes)
        this.#at += bytes.length
        this.#best = Math.max(this.#best, this.#at)
        this.#fetched += bytes.length
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

/** What a clone without Git LFS, or a mirror of one, has in the place of a large file. */
async function isPointer(handle: FileHandle, length: number): Promise<boolean> {
  if (length === 0 || length > 1024) return false
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, 0)
  return buffer.toString('latin1', 0, bytesRead).startsWith('version https://git-lfs')
}

/** Writes all of it, at the end of the file. */
async function write(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await handle.write(bytes, done)).bytesWritten
}

/** Hashes what a file has, and returns its length; one of more than `most` bytes is emptied. */
async function readInto(
  hash: Hash,
  handle: FileHandle,
  most: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  const info = await handle.stat()
  if (info.isFile() && info.size > most) await handle.truncate(0)
  const length = info.isFile() && info.size <= most ? info.size : 0
  const buffer = Buffer.alloc(Math.min(1 << 20, Math.max(1, length)))
  let at = 0
  while (at < length) {
    if (signal?.aborted) throw abortedError(signal, 'the download')
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, length - at), at)
    if (bytesRead === 0) break
    hash.update(buffer.subarray(0, bytesRead))
    at += bytesRead
  }
  return at
}
