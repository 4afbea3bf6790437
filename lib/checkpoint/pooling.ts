/** How embeddings are pooled: 1_Pooling/config.json, as sentence-transformers writes it. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

export type Pooling = 'mean' | 'last'

/** undefined where the folder says nothing, or wants what is neither. */
export async function readPooling(folder: string, warn: (message: string) => void): Promise<Pooling | undefined> {
  let config: Record<string, unknown>
  try {
    config = JSON.parse(await readFile(join(folder, POOLING_FILE), 'utf8'))
  } catch {
    return undefined
  }
  const modes = Object.keys(config ?? {}).filter((name) => name.startsWith('pooling_mode_') && config[name] === true)
  if (modes.length === 1 && modes[0] === 'pooling_mode_mean_tokens') return 'mean'
  if (modes.length === 1 && modes[0] === 'pooling_mode_lasttoken') return 'last'
  warn(
    `${POOLING_FILE}: expected a mean or the last token but found ${modes.join(' and ') || 'neither'}: embed() takes means`,
  )
  return undefined
}

export const POOLING_FILE = '1_Pooling/config.json'
