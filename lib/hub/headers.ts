/** What inspect() and plan() read of a model that is not here: its settings, and of its weights the headers alone. */
import { type FileHandle, mkdtemp, open, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { readQuantisation } from '../checkpoint/quantisation/index.ts'
import { makeFolder } from '../files.ts'
import { blobFile, hasBlob, snapshotFolder } from './cache.ts'
import type { HubName } from './name.ts'
import { writePlausible } from './plausible.ts'
import { chooseGguf, fetchSettings, type HubOptions } from './pull.ts'
import { type HubFile, type HubRepository, readRepository } from './repository.ts'
import { ask, asTransient, Transient, Watch, withRetries } from './request.ts'
import { type GgufChoice, isGgufOnly, weightsOf } from './select.ts'
import type { HubSettings } from './settings.ts'

/** Those of real vocabularies are 4 to 12 MB. */
const GGUF_HEAD_BYTES = 24 << 20
/** Of safetensors, the first try; headers of more are read once their length is known. */
const FIRST_BYTES = 64 << 10

/** A folder, or a GGUF file in it, whose weight files have headers and holes; it is to be disposed of. */
export interface Headers extends AsyncDisposable {
  path: string
}

/** Rejects as pull() does. */
export async function fetchHeaders(name: HubName, options: HubOptions, settings: HubSettings): Promise<Headers> {
  const { revision = 'main', signal } = options
  const repository = await readRepository(name.repo, revision, settings, signal)
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
    for (const file of files) await headerOf(repository, file, folder, async () => GGUF_HEAD_BYTES, settings, signal)
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

/** How many bytes of the file matter, by its first ones. */
type Head = (first: Buffer) => Promise<number>

const safetensorsHead: Head = async (first) => (first.length < 8 ? first.length : Number(first.readBigUInt64LE(0)) + 8)

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
  const first = await beginningOf(repository, file, FIRST_BYTES, settings, signal)
  const wanted = Math.min(file.size, await head(first))
  const bytes = wanted <= first.length ? first : await beginningOf(repository, file, wanted, settings, signal)
  const handle = await open(target, 'w')
  try {
    await handle.writeFile(bytes.subarray(0, wanted))
    await handle.truncate(file.size)
    await complete?.(handle, bytes.subarray(0, wanted))
  } finally {
    await handle.close()
  }
}

async function beginningOf(
  repository: HubRepository,
  { path, size }: HubFile,
  count: number,
  settings: HubSettings,
  signal: AbortSignal | undefined,
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
        const parts: Uint8Array[] = []
        let have = 0
        try {
          // A server without ranges sends everything: what is beyond is not waited for.
          for await (const part of response.body ?? []) {
            watch.touch()
            parts.push(part)
            have += part.length
            if (have >= wanted) break
          }
        } catch (error) {
          throw asTransient(error, settings)
        }
        if (have < wanted) throw new Transient(`the connection was cut: ${path} ended after ${have} bytes`)
        return Buffer.concat(parts).subarray(0, wanted)
      } finally {
        watch.stop()
      }
    },
    settings,
    signal,
  )
}
