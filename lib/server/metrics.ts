/**
 * What Prometheus reads. Names are vLLM's where vLLM has the figure, so that what schedules and watches it does so here
 * unchanged; ours begin with `millrace:`.
 */
import type { Generation } from '../index.ts'
import type { Counted, PoolEntry } from './pool/entry.ts'
import type { ModelPool } from './pool/pool.ts'
import { Counter, Gauge, Histogram, Registry } from './vendor.ts'

const FIRST_TOKEN_SECONDS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
]
const BETWEEN_TOKENS_SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5,
]
const REQUEST_SECONDS = [0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960]
const TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]

const labelNames = ['model_name'] as const

interface Figure {
  name: string
  help: string
  of: (entry: PoolEntry) => number | undefined
}

const GAUGES: Figure[] = [
  {
    name: 'vllm:num_requests_running',
    help: 'Requests that are computed now',
    of: ({ open }) => open?.stats.sequences.running ?? 0,
  },
  {
    name: 'vllm:num_requests_waiting',
    help: 'Requests that wait: for their model, or for their first step',
    of: ({ open, waiters }) => (open?.stats.sequences.waiting ?? 0) + waiters.size,
  },
  { name: 'vllm:kv_cache_usage_perc', help: 'Share of the KV cache that is used; 1 is all', of: kvUsage },
  { name: 'vllm:gpu_cache_usage_perc', help: 'The same, by its older name', of: kvUsage },
  {
    name: 'millrace:kv_tier_bytes',
    help: 'System RAM that keys and values of earlier texts take',
    of: ({ open }) => open?.stats.kv.tierBytes,
  },
  { name: 'millrace:model_loaded', help: '1 where the model is loaded', of: ({ open }) => (open ? 1 : 0) },
  { name: 'millrace:host_bytes', help: 'Weights in system RAM', of: ({ open }) => open?.memory.hostBytes },
  { name: 'millrace:vram_bytes', help: 'GPU memory of the model', of: ({ open }) => open?.memory.vramBytes },
]

const counted = (name: keyof Counted) => (entry: PoolEntry) => entry.counted[name]

const COUNTERS: Figure[] = [
  {
    name: 'vllm:num_preemptions_total',
    help: 'Times that a request gave up its KV blocks',
    of: counted('preemptions'),
  },
  {
    name: 'vllm:prefix_cache_queries_total',
    help: 'Prompt tokens looked up in the prefix cache',
    of: counted('promptTokens'),
  },
  { name: 'vllm:prefix_cache_hits_total', help: 'Prompt tokens found there', of: counted('reusedTokens') },
  {
    name: 'millrace:prefix_cache_returned_tokens_total',
    help: 'Of those, tokens whose keys and values came back from system RAM',
    of: counted('returnedTokens'),
  },
  {
    name: 'vllm:spec_decode_num_draft_tokens_total',
    help: 'Tokens that were guessed ahead and checked',
    of: counted('draftedTokens'),
  },
  {
    name: 'vllm:spec_decode_num_accepted_tokens_total',
    help: 'Of those, tokens that were right',
    of: counted('acceptedTokens'),
  },
  { name: 'millrace:steps_total', help: 'Passes over the model', of: counted('steps') },
  { name: 'millrace:streamed_bytes_total', help: 'Bytes of weights copied over the link', of: counted('copiedBytes') },
  { name: 'millrace:weight_bytes_read_total', help: 'Bytes of weights read', of: counted('weightBytesRead') },
  { name: 'millrace:arena_switches_total', help: 'Passes that brought shared weights', of: counted('switches') },
  { name: 'millrace:model_loads_total', help: 'Times that the model was loaded', of: counted('loads') },
]

function kvUsage({ open }: PoolEntry): number {
  const { blocksUsed = 0, blocksTotal = 0 } = open?.stats.kv ?? {}
  return blocksTotal === 0 ? 0 : blocksUsed / blocksTotal
}

export class Metrics {
  readonly registry = new Registry()
  readonly #promptTokens: Counter<'model_name'>
  readonly #generationTokens: Counter<'model_name'>
  readonly #finished: Counter<'model_name' | 'finished_reason'>
  readonly #firstToken: Histogram<'model_name'>
  readonly #betweenTokens: Histogram<'model_name'>
  readonly #perToken: Histogram<'model_name'>
  readonly #endToEnd: Histogram<'model_name'>
  readonly #queue: Histogram<'model_name'>
  readonly #promptSize: Histogram<'model_name'>
  readonly #answerSize: Histogram<'model_name'>

  constructor(pool: ModelPool) {
    const registers = [this.registry]
    for (const { name, help, of } of GAUGES) {
      const gauge = new Gauge({ name, help, labelNames, registers })
      collectFrom(pool, gauge, of, (labels, value) => gauge.set(labels, value))
    }
    for (const { name, help, of } of COUNTERS) {
      const counter = new Counter({ name, help, labelNames, registers })
      collectFrom(pool, counter, of, (labels, value) => counter.inc(labels, value))
    }
    const cache = new Gauge({
      name: 'vllm:cache_config_info',
      help: 'The KV cache of a loaded model',
      labelNames: ['model_name', 'block_size', 'num_gpu_blocks'],
      registers,
    })
    collectFrom(
      pool,
      cache,
      ({ open }) => (open ? 1 : undefined),
      ({ model_name }, value, { open }) => {
        const { blockTokens, blocksTotal } = open!.stats.kv
        cache.set({ model_name, block_size: String(blockTokens), num_gpu_blocks: String(blocksTotal) }, value)
      },
    )
    const histogram = (name: string, help: string, buckets: number[]) =>
      new Histogram({ name, help, labelNames, buckets, registers })
    const counter = (name: string, help: string) => new Counter({ name, help, labelNames, registers })
    this.#promptTokens = counter('vllm:prompt_tokens_total', 'Tokens of prompts')
    this.#generationTokens = counter('vllm:generation_tokens_total', 'Tokens of answers')
    this.#finished = new Counter({
      name: 'vllm:request_success_total',
      help: 'Answers that have ended, by how',
      labelNames: ['model_name', 'finished_reason'],
      registers,
    })
    this.#firstToken = histogram(
      'vllm:time_to_first_token_seconds',
      'From the request to its first token',
      FIRST_TOKEN_SECONDS,
    )
    this.#betweenTokens = histogram(
      'vllm:inter_token_latency_seconds',
      'Between tokens of a stream',
      BETWEEN_TOKENS_SECONDS,
    )
    this.#perToken = histogram(
      'vllm:request_time_per_output_token_seconds',
      'Between tokens, the mean of an answer',
      BETWEEN_TOKENS_SECONDS,
    )
    this.#endToEnd = histogram('vllm:e2e_request_latency_seconds', 'From the request to its end', REQUEST_SECONDS)
    this.#queue = histogram('vllm:request_queue_time_seconds', 'From the request to its first step', REQUEST_SECONDS)
    this.#promptSize = histogram('vllm:request_prompt_tokens', 'Tokens of a prompt', TOKENS)
    this.#answerSize = histogram('vllm:request_generation_tokens', 'Tokens of an answer', TOKENS)
  }

  /** Counts an answer when it has ended. */
  watch(model_name: string, generation: Generation): void {
    const labels = { model_name }
    generation.result.then(
      ({ usage, timings, finishReason }) => {
        const { promptTokens, completionTokens } = usage
        const { queueMs, firstTokenMs, totalMs } = timings
        this.#promptTokens.inc(labels, promptTokens)
        this.#generationTokens.inc(labels, completionTokens)
        this.#finished.inc({ model_name, finished_reason: finishReason })
        this.#promptSize.observe(labels, promptTokens)
        this.#answerSize.observe(labels, completionTokens)
        this.#queue.observe(labels, queueMs / 1000)
        this.#endToEnd.observe(labels, totalMs / 1000)
        if (completionTokens > 0) this.#firstToken.observe(labels, firstTokenMs / 1000)
        if (completionTokens > 1) {
          this.#perToken.observe(labels, (totalMs - firstTokenMs) / 1000 / (completionTokens - 1))
        }
      },
      () => {},
    )
  }

  /** Counts texts that were embedded, as one request. */
  embedded(model_name: string, promptTokens: number, seconds: number): void {
    const labels = { model_name }
    this.#promptTokens.inc(labels, promptTokens)
    this.#finished.inc({ model_name, finished_reason: 'stop' })
    this.#promptSize.observe(labels, promptTokens)
    this.#endToEnd.observe(labels, seconds)
  }

  /** Between a token of a stream and the one before. */
  betweenTokens(model_name: string, seconds: number): void {
    this.#betweenTokens.observe({ model_name }, seconds)
  }
}

/** Read when it is asked for, of every model that there is a figure of. */
function collectFrom(
  pool: ModelPool,
  metric: { reset(): void; collect?: unknown },
  of: (entry: PoolEntry) => number | undefined,
  set: (labels: { model_name: string }, value: number, entry: PoolEntry) => void,
): void {
  metric.collect = () => {
    metric.reset()
    for (const entry of pool.entries) {
      const value = of(entry)
      if (value !== undefined) set({ model_name: entry.source.name }, value, entry)
    }
  }
}
