/** Models that come and go: loads and plans are the test's, so that it says when each ends. */
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test, vi } from 'vitest'
import { type LoadOptions, MillraceError, type Model } from '../../../lib/index.ts'
import { ModelPool } from '../../../lib/server/pool/pool.ts'
import type { PoolOptions } from '../../../lib/server/pool/types.ts'

const log = { debug() {}, info() {}, warn() {}, error() {} }
const SIZES: Record<string, number> = { a: 60, b: 60, c: 30, d: 10, e: 10, f: 95, huge: 200 }

/** A pool of 100 bytes. */
function makePool(options: Partial<PoolOptions> = {}) {
  const events: string[] = []
  const failures: Error[] = []
  let hold: Promise<void> | undefined
  const fakeModel = (name: string) =>
    ({
      plan: { device: 'cpu', hostBytes: SIZES[name], kvSwapBytes: 0, kvBytes: 0, ringBytes: 0 },
      stats: {
        sequences: { preemptions: 1 },
        prefixCache: { promptTokens: 5, reusedTokens: 2, returnedTokens: 1 },
        speculation: { draftedTokens: 0, acceptedTokens: 0, draftPasses: 0, draftMs: 0 },
        steps: 3,
        weightBytesRead: 4,
        streaming: { copiedBytes: 6 },
        arena: { switches: 7 },
      },
      close: async () => {
        events.push(`-${name}`)
      },
    }) as unknown as Model
  const load = async (name: string, { signal }: LoadOptions = {}) => {
    events.push(`+${name}`)
    await hold
    const failure = failures.shift()
    if (failure) throw failure
    signal?.throwIfAborted()
    return fakeModel(name)
  }
  const pool = new ModelPool(
    Object.keys(SIZES).map((name) => ({ name, path: name, options: {} })),
    { log, ramBudgetBytes: 100, maxWaitMs: 50, load, estimate: async ({ name }) => SIZES[name]!, ...options },
  )
  return {
    pool,
    events,
    failures,
    holdLoads: () => {
      let go!: () => void
      hold = new Promise((resolve) => {
        go = resolve
      })
      return go
    },
  }
}

describe('acquire', () => {
  test('one load, however many ask', async () => {
    const { pool, events } = makePool()
    const leases = await Promise.all([1, 2, 3].map(() => pool.acquire('a')))
    expect(events).toEqual(['+a'])
    expect(new Set(leases.map(({ model }) => model)).size).toBe(1)
  })

  test('where there is room, nothing is unloaded', async () => {
    const { pool, events } = makePool()
    for (const name of ['a', 'c', 'a', 'c']) (await pool.acquire(name)).release()
    expect(events).toEqual(['+a', '+c'])
  })

  test('the one that was used longest ago gives way, and no more than need be', async () => {
    const { pool, events } = makePool()
    for (const name of ['a', 'c', 'a']) (await pool.acquire(name)).release()
    ;(await pool.acquire('b')).release()
    // c was the older one, but its room alone would not do: both went.
    expect(events).toEqual(['+a', '+c', '-c', '-a', '+b'])
    ;(await pool.acquire('c')).release()
    expect(events.slice(5)).toEqual(['+c'])
    ;(await pool.acquire('a')).release()
    expect(events.slice(6)).toEqual(['-b', '+a'])
  })

  test('nothing is unloaded under a request', async () => {
    const { pool, events } = makePool()
    const held = await pool.acquire('a')
    const waiting = pool.acquire('b')
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(events).toEqual(['+a'])
    held.release()
    const lease = await waiting
    expect(events).toEqual(['+a', '-a', '+b'])
    lease.release()
    lease.release() // harmless
  })

  test('until the longest wait others of the same model are let in, then they wait, and each gets its turn', async () => {
    const { pool, events } = makePool()
    const first = await pool.acquire('a')
    const order: string[] = []
    const b = pool.acquire('b').then((lease) => {
      order.push('b')
      return lease
    })
    const second = await pool.acquire('a') // it has not waited long enough to hold this one up
    await new Promise((resolve) => setTimeout(resolve, 80))
    const third = pool.acquire('a').then((lease) => {
      order.push('a')
      return lease
    })
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(order).toEqual([])
    first.release()
    second.release()
    const lease = await b
    expect(order).toEqual(['b'])
    lease.release()
    ;(await third).release()
    expect(order).toEqual(['b', 'a'])
    expect(events).toEqual(['+a', '-a', '+b', '-b', '+a'])
  })

  test('two models that never fit together both go on under load', async () => {
    const { pool } = makePool({ maxWaitMs: 5 })
    const served = { a: 0, b: 0 }
    const worker = async (name: 'a' | 'b') => {
      for (let turn = 0; turn < 20; turn++) {
        const lease = await pool.acquire(name)
        await new Promise((resolve) => setTimeout(resolve, 2))
        served[name]++
        lease.release()
      }
    }
    await Promise.all([worker('a'), worker('a'), worker('b'), worker('b')])
    expect(served).toEqual({ a: 40, b: 40 })
  })

  test('who waits and leaves holds nobody up', async () => {
    const { pool, events } = makePool()
    const held = await pool.acquire('a')
    const controller = new AbortController()
    const gone = pool.acquire('b', controller.signal)
    await new Promise((resolve) => setTimeout(resolve, 80))
    const next = pool.acquire('a')
    controller.abort(new Error('left'))
    await expect(gone).rejects.toThrow('left')
    ;(await next).release()
    held.release()
    expect(events).toEqual(['+a'])
  })

  test('a load that fails fails those who wait, and is tried again for the next', async () => {
    const { pool, failures, events } = makePool()
    failures.push(new MillraceError('CHECKPOINT_INVALID', { message: 'damaged' }))
    const asked = [pool.acquire('a'), pool.acquire('a')]
    for (const one of asked) await expect(one).rejects.toMatchObject({ code: 'CHECKPOINT_INVALID' })
    ;(await pool.acquire('a')).release()
    expect(events).toEqual(['+a', '+a'])
  })

  test('where the system has no RAM after all, an idle model gives way', async () => {
    const { pool, failures, events } = makePool({ ramBudgetBytes: 1000 })
    ;(await pool.acquire('a')).release()
    failures.push(new MillraceError('OUT_OF_MEMORY', { message: 'none left' }))
    ;(await pool.acquire('b')).release()
    expect(events).toEqual(['+a', '+b', '-a', '+b'])
  })

  test('what can never fit, and what nobody has configured', async () => {
    const { pool, events } = makePool()
    await expect(pool.checkAll()).rejects.toMatchObject({
      code: 'OUT_OF_MEMORY',
      message: expect.stringMatching(/^huge takes/),
    })
    await expect(pool.acquire('huge')).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
    await expect(pool.acquire('none')).rejects.toMatchObject({ status: 404, code: 'model_not_found' })
    expect(events).toEqual([])
  })

  test('counters go on over loads', async () => {
    const { pool } = makePool()
    ;(await pool.acquire('a')).release()
    ;(await pool.acquire('b')).release()
    ;(await pool.acquire('a')).release()
    const entry = pool.entries.find(({ source }) => source.name === 'a')!
    expect(entry.counted).toMatchObject({ steps: 6, loads: 2, promptTokens: 10 })
  })
})

test('one that turns out to be too large does not have the next ones loaded twice', async () => {
  const { pool, events } = makePool()
  await expect(pool.acquire('huge')).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
  ;(await pool.acquire('e')).release() // its size is known from now on
  const held = await pool.acquire('f')
  events.length = 0
  const first = pool.acquire('d')
  await sleep(5) // its size is known, and who comes now waits behind it
  const ends = Promise.allSettled([first, pool.acquire('huge'), pool.acquire('e')])
  held.release()
  expect((await ends).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
  expect(events).toEqual(['-f', '+d', '+e'])
})

describe('close', () => {
  test('fails those who wait, ends the load under way and closes what is there', async () => {
    const { pool, events, holdLoads } = makePool()
    ;(await pool.acquire('c')).release()
    const go = holdLoads()
    const waiting = pool.acquire('a')
    waiting.catch(() => {})
    await vi.waitFor(() => expect(events).toContain('+a'))
    const closed = pool.close()
    go()
    await closed
    await expect(waiting).rejects.toMatchObject({ status: 503, code: 'STOPPING' })
    await expect(pool.acquire('c')).rejects.toMatchObject({ status: 503 })
    expect(events).toEqual(['+c', '+a', '-c'])
  })
})

test('loadAll refuses what does not fit together', async () => {
  const { pool } = makePool()
  await expect(pool.loadAll()).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
})
