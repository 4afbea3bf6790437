/** GET /v1/models. */
import { modelNotFound } from '../http/problem.ts'
import type { PoolEntry } from '../pool/entry.ts'
import type { ModelPool } from '../pool/pool.ts'

function modelOf({ source: { name }, model }: PoolEntry, created: number) {
  return {
    id: name,
    object: 'model',
    created,
    owned_by: 'millrace',
    root: name,
    parent: null,
    ...(model ? { max_model_len: model.plan.contextLength } : {}),
  }
}

export const listModels = (pool: ModelPool, created: number) => ({
  object: 'list',
  data: pool.entries.map((entry) => modelOf(entry, created)),
})

export function findModel(pool: ModelPool, name: string, created: number) {
  const entry = pool.entries.find(({ source }) => source.name === name)
  if (!entry) throw modelNotFound(name)
  return modelOf(entry, created)
}
