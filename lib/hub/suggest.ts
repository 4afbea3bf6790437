/** Which of several GGUF models of a repository suits this machine. */
import { MillraceError } from '../errors.ts'
import type { HubRepository } from './repository.ts'
import type { GgufChoice } from './select.ts'
import type { HubSettings } from './settings.ts'

/** The error that lists them and suggests one. */
export async function severalModels(
  { repo }: HubRepository,
  choices: readonly GgufChoice[],
  _settings: HubSettings,
  _signal: AbortSignal | undefined,
): Promise<MillraceError> {
  const size = (bytes: number) => (bytes > 0 ? ` (${(bytes / 1e9).toPrecision(3)} GB)` : '')
  return new MillraceError('INVALID_ARGUMENT', {
    message: `${repo} has ${choices.length} GGUF models: ${choices.map(({ name, bytes }) => name + size(bytes)).join(', ')}`,
    remedy: `name one, such as '${repo}:${choices[0]!.name}'`,
  })
}
