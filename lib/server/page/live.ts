/** GET /live: what the page's picture is drawn from, twice a second. */
import type { Home } from '../../index.ts'
import type { Call } from '../context.ts'
import { dataEvent } from '../http/sse.ts'
import { failedEvent } from '../openai/shared.ts'
import type { ModelState, PoolEntry } from '../pool/entry.ts'

export interface LiveModel {
  name: string
  state: ModelState
  asleep: boolean
  device: string
  leases: number
  running: number
  waiting: number
  /** In the order of a pass. */
  homes: { home: Home }[]
  ringBytes: number
  streaming: { units: number; copiedBytes: number }
  arena: { switches: number; copiedBytes: number }
  kv: { blocksUsed: number; blocksTotal: number }
  preemptions: number
  prefixHitRate: number
  /** Since the load: tokens computed, milliseconds that passes took. */
  rows: number
  stepMs: number
  hostBytes: number
  vramBytes: number
}

export interface LiveReport {
  models: LiveModel[]
  /** Models that gave way to others. */
  switches: number
}

const INTERVAL_MS = 500

export function live(call: Call): Promise<object> {
  return call.stream(reports(call), failedEvent)
}

async function* reports({ context: { pool }, signal }: Call): AsyncGenerator<string, void, undefined> {
  while (!signal.aborted && !pool.closing) {
    const report: LiveReport = { models: pool.entries.map(liveModel), switches: pool.switches }
    yield dataEvent(report)
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS))
  }
}

function liveModel({ source, state, open: model, leases, waiters }: PoolEntry): LiveModel {
  const stats = model?.stats
  const memory = model?.memory
  return {
    name: source.name,
    state: state === 'ready' && !model ? 'cold' : state,
    asleep: model?.asleep ?? false,
    device: model?.plan.device ?? '',
    leases,
    running: stats?.sequences.running ?? 0,
    waiting: (stats?.sequences.waiting ?? 0) + waiters.size,
    homes: model?.plan.units.map(({ home }) => ({ home })) ?? [],
    ringBytes: memory?.ringBytes ?? 0,
    streaming: { units: stats?.streaming.units ?? 0, copiedBytes: stats?.streaming.copiedBytes ?? 0 },
    arena: { switches: stats?.arena.switches ?? 0, copiedBytes: stats?.arena.copiedBytes ?? 0 },
    kv: { blocksUsed: stats?.kv.blocksUsed ?? 0, blocksTotal: stats?.kv.blocksTotal ?? 0 },
    preemptions: stats?.sequences.preemptions ?? 0,
    prefixHitRate: stats?.prefixCache.hitRate ?? 0,
    rows: (stats?.rows.decode ?? 0) + (stats?.rows.prefill ?? 0),
    stepMs: stats?.stepMs ?? 0,
    hostBytes: memory?.hostBytes ?? 0,
    vramBytes: memory?.vramBytes ?? 0,
  }
}
