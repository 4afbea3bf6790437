/** What the hub's refusals mean. */
import { MillraceError } from '../errors.ts'
import type { HubSettings } from './settings.ts'

/** What was asked for, for messages. */
export interface Asked {
  repo: string
  revision?: string | undefined
  file?: string | undefined
}

export const pageOf = ({ endpoint }: HubSettings, repo: string) => `${endpoint}/${repo}`

/** Of an answer that is neither success nor to be tried again. */
export function refusal(response: Response, asked: Asked, settings: HubSettings): MillraceError {
  const { status, headers } = response
  const code = headers.get('x-error-code') ?? ''
  const said = headers.get('x-error-message')
  const { repo, revision, file } = asked
  const { token, endpoint } = settings
  if (code === 'GatedRepo' || (status === 403 && /gated|access|agree/i.test(said ?? ''))) return gated(asked, settings)
  if (code === 'RevisionNotFound') {
    return new MillraceError('CHECKPOINT_NOT_FOUND', {
      message: `${repo}: there is no revision '${revision ?? 'main'}' at ${endpoint}`,
      remedy: `${pageOf(settings, repo)}/tree/main lists its branches and tags`,
    })
  }
  if (code === 'EntryNotFound' || (status === 404 && file !== undefined)) {
    return new MillraceError('CHECKPOINT_NOT_FOUND', {
      message: `${repo}: there is no file ${file ?? ''} at ${endpoint}`,
      remedy: `${pageOf(settings, repo)}/tree/main lists its files`,
    })
  }
  if (status === 404 || (status === 401 && (code === 'RepoNotFound' || token === undefined))) {
    return noSuchModel(
      repo,
      `no repository of that name at ${endpoint} that ${token === undefined ? 'anyone' : 'this token'} may read`,
    )
  }
  if (status === 401) {
    return new MillraceError('HUB_ACCESS_DENIED', {
      message: `${endpoint} does not accept the token of ${token!.from}`,
      remedy: `make another at ${endpoint}/settings/tokens, or leave it unset for public models`,
    })
  }
  if (status === 403) {
    return new MillraceError('HUB_ACCESS_DENIED', {
      message: `${endpoint} refuses ${repo}: ${said ?? 'forbidden'}`,
      remedy: `see ${pageOf(settings, repo)} with the account whose token is used`,
    })
  }
  return new MillraceError('HUB_UNAVAILABLE', {
    message: `${endpoint} answers ${status} for ${repo}${said === null ? '' : `: ${said}`}`,
  })
}

export function gated({ repo }: Asked, settings: HubSettings): MillraceError {
  const page = pageOf(settings, repo)
  const account =
    settings.token === undefined
      ? 'set HF_TOKEN to a token of that account'
      : `with the account of the token in ${settings.token.from}`
  return new MillraceError('HUB_ACCESS_DENIED', {
    message: `${repo} is gated: its owner gives it to those who accept its terms`,
    remedy:
      settings.token === undefined
        ? `visit ${page}, accept the terms, and ${account} (${settings.endpoint}/settings/tokens)`
        : `visit ${page} ${account} and accept the terms`,
  })
}

export function noSuchModel(repo: string, found: string): MillraceError {
  return new MillraceError('CHECKPOINT_NOT_FOUND', {
    message: `'${repo}': found no such folder here, and ${found}`,
    remedy: 'check the spelling of path or name; a private repository needs HF_TOKEN',
  })
}
