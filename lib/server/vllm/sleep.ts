/** vLLM's /sleep, /wake_up and /is_sleeping: of the model that `?model=` names, else of all that are loaded. */
import { modelNotFound } from '../http/problem.ts'
import type { PoolEntry } from '../pool/entry.ts'
import type { ModelPool } from '../pool/pool.ts'

function entriesOf(pool: ModelPool, name: string | undefined): readonly PoolEntry[] {
  if (name === undefined) return pool.entries
  if (!pool.has(name)) throw modelNotFound(name)
  return pool.entries.filter(({ source }) => source.name === name)
}

export async function sleep(pool: ModelPool, name: string | undefined): Promise<object> {
  await Promise.all(entriesOf(pool, name).map(({ model }) => model?.sleep()))
  return {}
}

export async function wakeUp(pool: ModelPool, name: string | undefined): Promise<object> {
  await Promise.all(entriesOf(pool, name).map(({ model }) => model?.wake()))
  return {}
}

/** All that are loaded sleep, and some are. */
export function isSleeping(pool: ModelPool, name: string | undefined): object {
  const loaded = entriesOf(pool, name).flatMap(({ model }) => model ?? [])
  return { is_sleeping: loaded.length > 0 && loaded.every(({ asleep }) => asleep) }
}
