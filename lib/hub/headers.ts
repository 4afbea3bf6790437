/** What inspect() and plan() read of a model that is not here: its settings, and of its weights the headers alone. */
import { type FileHandle, mkdtemp, open, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { readQuantisation } from '../checkpoint/quantisation/index.ts'
import { MillraceError } from '../errors.ts'
import { makeFolder } from '../files.ts'
import { blobFile, hasBlob, snapshotFolder } from './cache.ts'
import { ggufHeadBytes } from './gguf_head.ts'
import type { HubName } from './name.ts'
import { writePlausible } from './plausible.ts'
import { chooseGguf, fetchSettings } from './pull.ts'
import type { HubFile, HubRepository } from './repository.ts'
import { ask, asTransient, Transient, Watch, withRetries } from './request.ts'
import { type GgufChoice, isGgufOnly, weightsOf } from './select.ts'
import type { HubSettings } from './settings.ts'

/** Of the header of a file that is not here, and of memory for it. Those of real models are 12 MB at most. */
const MOST_BYTES = 32 << 20
/** Of safetensors, the first try; headers of more are read once their length is known. */
const FIRST_BYTES = 64 << 10

/** A folder, or a GGUF file in it, whose weight files have headers and holes; it is to be disposed of. */
export interface Headers extends AsyncDisposable {
  path: string
}

/** Rejects as pull() does. */
export async function fetchHeaders(
  name: HubName,
  repository: HubRepository,
  settings: HubSettings,
  signal: AbortSignal | undefined,
): Promise<Headers> {
  if (name.file !== undefined || isGgufOnly(repository)) {
    return ggufHeaders(repository, await chooseGguf(name, repository, settings, signal), settings, signal)
  }
  const snapshot = snapshotFolder(settings.cache, repository.repo, repository.commit)
  const described = await fetchSettings(repository, settings, signal)
  const weights = await weightsOf(repository, snapshot, described.config)
  return inFolder(async (folder) => {
    for (const { path } of described.files) {
      await makeFolder(dirname(join(folder, path))) // of embedding models one is in a folder of its own
      await symlink(join(snapshot, path), join(folder, path))
    }
    const quantisation = await readQuantisation({ path: snapshot, config: described.config })
    for (const file of weights) {
      await headerOf(repository, file, folder, safetensorsHead, settings, signal, (handle, head) =>
        writePlausible(handle, head, quantisation),
      )
    }
    return folder
  })
}

/** Of one model of a GGUF repository. */
export function ggufHeaders(
  repository: HubRepository,
  { files }: GgufChoice,
  settings: HubSettings,
  signal: AbortSignal | undefined,
): Promise<Headers> {
  return inFolder(async (folder) => {
    for (const file of files) await headerOf(repository, file, folder, ggufHead, settings, signal)
    return join(folder, basename(files[0]!.path))
  })
}

async function inFolder(fill: (folder: string) => Promise<string>): Promise<Headers> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-headers-'))
  const dispose = () => rm(folder, { recursive: true, force: true })
  try {
    return { path: await fill(folder), [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

/** The bytes at a file's beginning that matter, which `read` fetches. */
type Head = (file: HubFile, read: (count: number, isEnough?: IsEnough) => Promise<Buffer>) => Promise<Buffer>
type IsEnough = (bytes: Buffer) => boolean

const safetensorsHead: Head = async (file, read) => {
  const first = await read(FIRST_BYTES)
  const bytes = first.length < 8 ? first.length : Number(first.readBigUInt64LE(0)) + 8
  if (bytes > MOST_BYTES) throw tooLong(file, `is ${megabytes(bytes)} long by its first 8 bytes`)
  return bytes <= first.length ? first.subarray(0, bytes) : read(bytes)
}

const ggufHead: Head = async (file, read) => {
  const bytes = await read(MOST_BYTES, (some) => ggufHeadBytes(some) !== undefined)
  if (bytes.length < file.size && ggufHeadBytes(bytes) === undefined) {
    throw tooLong(file, `goes on behind ${megabytes(MOST_BYTES)}`)
  }
  return bytes
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toPrecision(3)} MB`

function tooLong({ path }: HubFile, found: string): MillraceError {
  return new MillraceError('CHECKPOINT_INVALID', {
    message: `${path}: its header ${found}; of a file that is not here at most ${megabytes(MOST_BYTES)} are read`,
    remedy: 'pull the model, whose files are then read where they lie, if you trust whoever published it',
  })
}

async function headerOf(
  repository: HubRepository,
  file: HubFile,
  folder: string,
  head: Head,
  settings: HubSettings,
  signal: AbortSignal | undefined,
  complete?: (handle: FileHandle, head: Buffer) => Promise<void>,
): Promise<void> {
  const { repo } = repository
  const target = join(folder, basename(file.path))
  if (await hasBlob(settings.cache, repo, file)) return symlink(blobFile(settings.cache, repo, file.blob), target)
  const bytes = await head(file, (count, isEnough) => beginningOf(repository, file, count, settings, signal, isEnough))
  const handle = await open(target, 'w')
  try {
    await handle.writeFile(bytes)
    await handle.truncate(file.size)
    await complete?.(handle, bytes)
  } finally {
    await handle.close()
  }
}

/** So many bytes, or those that are enough, which is asked whenever there are twice as many. */
async function beginningOf(
  repository: HubRepository,
  { path, size }: HubFile,
  count: number,
  settings: HubSettings,
  signal: AbortSignal | undefined,
  isEnough: IsEnough = () => false,
): Promise<Buffer> {
  const { repo, commit, revision } = repository
  const url = `${settings.endpoint}/${repo}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`
  const wanted = Math.min(count, size)
  return withRetries(
    async () => {
      const watch = new Watch(settings, signal)
      try {
        const range = { range: `bytes=0-${Math.max(0, wanted - 1)}` }
        const response = await ask(url, { repo, revision, file: path }, settings, watch, range)
        const bytes = Buffer.allocUnsafe(wanted)
        let have = 0
        try {
          // A server without ranges sends everything: what is beyond is not waited for.
          for await (const part of response.body ?? []) {
            watch.touch()
            const before = have
            const taken = part.subarray(0, wanted - have)
            bytes.set(taken, have)
            have += taken.length
            if (have === wanted) return bytes
            const isDoubled = Math.floor(Math.log2(have)) > Math.floor(Math.log2(before))
            if (isDoubled && isEnough(bytes.subarray(0, have))) return bytes.subarray(0, have)
          }
        } catch (error) {
          throw asTransient(error, settings)
        }
        throw new Transient(`the connection was cut: ${path} ended after ${have} bytes`)
      } finally {
        watch.stop()
      }
    },
    settings,
    signal,
  )
}
