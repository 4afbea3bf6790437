/** Where models come from and where they are kept, in the words that the field's other tools read. */
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { MillraceError } from '../errors.ts'
import { userCacheFolder } from '../files.ts'

export interface HubSettings {
  /** Without a slash at its end. */
  endpoint: string
  token: { value: string; from: string } | undefined
  /** The folder with models--owner--name folders. */
  cache: string
  /** Nothing is asked of the network. */
  offline: boolean
  /** A connection that brings nothing for so long is given up. */
  stallMs: number
  /** Of a first pause; each following one is twice as long, up to sixteen times. */
  pauseMs: number
  /** In a row that bring nothing. */
  attempts: number
  /** Another process that downloads the same and gives no sign of life for so long is gone on without; default 20 s. */
  deadMs?: number | undefined
}

const TRUE = /^(1|on|yes|true)$/i

/**
 * HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_CACHE, HF_HOME, HF_HUB_OFFLINE and HF_HUB_DOWNLOAD_TIMEOUT, with the
 * defaults of huggingface_hub. Throws WRITE_FAILED where no folder can be named, INVALID_ARGUMENT for an endpoint that is
 * none.
 */
export async function hubSettings(
  given: { offline?: boolean | undefined } = {},
  environment: NodeJS.ProcessEnv = process.env,
): Promise<HubSettings> {
  const home = hubHome(environment)
  const cache = pathOf(environment.HF_HUB_CACHE) ?? pathOf(environment.HUGGINGFACE_HUB_CACHE)
  const folder = cache ?? (home.path === undefined ? undefined : join(home.path, 'hub'))
  if (folder === undefined) {
    throw new MillraceError('WRITE_FAILED', {
      message: `there is no folder to keep models in: ${home.reason}`,
      remedy: 'name one by HF_HUB_CACHE',
    })
  }
  const seconds = Number(environment.HF_HUB_DOWNLOAD_TIMEOUT)
  return {
    endpoint: endpointOf(environment.HF_ENDPOINT),
    token: await tokenOf(environment, home.path),
    cache: folder,
    offline:
      given.offline ??
      (TRUE.test(environment.HF_HUB_OFFLINE ?? '') || TRUE.test(environment.TRANSFORMERS_OFFLINE ?? '')),
    stallMs: seconds > 0 ? seconds * 1000 : 30_000,
    pauseMs: 500,
    attempts: 6,
  }
}

function hubHome(environment: NodeJS.ProcessEnv): { path?: string; reason?: string } {
  const named = pathOf(environment.HF_HOME)
  if (named !== undefined) return { path: named }
  const { path, reason } = userCacheFolder(environment)
  return path === undefined ? { reason } : { path: join(path, 'huggingface') }
}

function pathOf(text: string | undefined): string | undefined {
  if (text === undefined || text.trim() === '') return undefined
  return text === '~' || text.startsWith('~/') ? join(homedir(), text.slice(1)) : resolve(text)
}

function endpointOf(text: string | undefined): string {
  if (text === undefined || text.trim() === '') return 'https://huggingface.co'
  const endpoint = text.trim().replace(/\/+$/, '')
  const { protocol, username } = parsed(endpoint)
  if (/^https?:$/.test(protocol) && username === '') return endpoint
  throw new MillraceError('INVALID_ARGUMENT', {
    message: `expected an address such as https://huggingface.co for HF_ENDPOINT but received '${text}'`,
    remedy: 'correct HF_ENDPOINT, or leave it unset',
  })
}

function parsed(text: string): { protocol: string; username: string } {
  try {
    return new URL(text)
  } catch {
    return { protocol: '', username: '' }
  }
}

/** As a header may have it. The text itself is shown to nobody. */
function checkedToken(value: string, from: string): { value: string; from: string } {
  if (/^[\x21-\x7e]+$/.test(value)) return { value, from }
  throw new MillraceError('INVALID_ARGUMENT', {
    message: `expected a token such as hf_… in ${from}, found blanks or letters in it that no token has`,
    remedy: `correct ${from}, or leave it unset for public models`,
  })
}

async function tokenOf(environment: NodeJS.ProcessEnv, home: string | undefined): Promise<HubSettings['token']> {
  if (TRUE.test(environment.HF_HUB_DISABLE_IMPLICIT_TOKEN ?? '')) return undefined
  for (const from of ['HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN']) {
    const value = environment[from]?.trim()
    if (value) return checkedToken(value, from)
  }
  const from = pathOf(environment.HF_TOKEN_PATH) ?? (home === undefined ? undefined : join(home, 'token'))
  const value = from === undefined ? '' : (await readFile(from, 'utf8').catch(() => '')).trim()
  return value === '' ? undefined : checkedToken(value, from!)
}
