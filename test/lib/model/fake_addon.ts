/** A native addon whose requests are answered by the test: for what JavaScript does with the engine's events. */
import type {
  Home,
  NativeAddon,
  NativeConstraint,
  NativeEvent,
  NativeGenerateRequest,
  NativeGpu,
  NativeLoadRequest,
  NativeModel,
  NativePacked,
  NativeRequest,
  NativeTensor,
  NativeTokensEvent,
  NativeVocabulary,
} from '../../../lib/binding.ts'

const GIB = 1024 ** 3

export class FakeAddon implements NativeAddon {
  readonly version = '0.0.0'
  readonly lab = undefined as never
  /** Kept alive by so many. */
  refs = 0
  models: FakeModel[] = []
  loads: NativeLoadRequest[] = []
  cancelledLoads: number[] = []
  /** Replaces what load() does. */
  onLoad: ((request: NativeLoadRequest) => Promise<NativeModel>) | undefined
  #onEvents: ((events: NativeEvent[]) => void) | undefined
  attached = 0

  emit(...events: NativeEvent[]): void {
    this.#onEvents!(events)
  }

  createVocabulary(): Promise<NativeVocabulary> {
    return Promise.resolve({})
  }

  createConstraint(): NativeConstraint {
    const trace = () => {
      throw new Error('no constraints here')
    }
    return { accepts: () => true, trace, bytes: 0 }
  }

  readGguf(): never {
    throw new Error('no GGUF here')
  }

  readTensors(paths: string[]): NativeTensor[] {
    const linears = ['self_attn.q', 'self_attn.k', 'self_attn.v', 'self_attn.o', 'mlp.gate', 'mlp.up', 'mlp.down']
    const names = ['model.embed_tokens.weight', 'model.norm.weight']
    for (let layer = 0; layer < 8; layer++) {
      names.push(
        `model.layers.${layer}.input_layernorm.weight`,
        `model.layers.${layer}.post_attention_layernorm.weight`,
      )
      names.push(...linears.map((linear) => `model.layers.${layer}.${linear}_proj.weight`))
    }
    return names.map((name) => ({
      name,
      dtype: 'F16',
      known: true,
      shape: [1],
      file: paths.length - 1,
      offset: 0,
      bytes: 2,
    }))
  }

  /** Identities that holdsWeights() knows. */
  held = new Set<string>()
  memoryAvailableBytes = 8 * GIB

  holdsWeights(identity: string): boolean {
    return this.held.has(identity)
  }

  planSynthetic(): never {
    throw new Error('not scripted')
  }

  async planSlabs() {
    const layers = Array.from({ length: 8 }, (_, layer) => [
      {
        name: `attention ${layer}`,
        kind: 'attention' as const,
        layer,
        kvClass: 0,
        bytes: 1024,
        types: ['q4' as const],
      },
      {
        name: `feed-forward ${layer}`,
        kind: 'feedForward' as const,
        layer,
        kvClass: -1,
        bytes: 2048,
        types: ['q4' as const],
      },
    ])
    const head = { name: 'head', kind: 'head' as const, layer: -1, kvClass: -1, bytes: 4096, types: ['f16' as const] }
    return {
      layoutVersion: 1,
      units: [...layers.flat(), head],
      embeddingBytes: 4096,
      embeddingType: 'f16' as const,
      kv: [{ layers: 8, window: 0, bytesPerToken: 64, bytesPerSequence: 0 }],
      kvBytesPerToken: 64,
    }
  }

  probeCpu() {
    return {
      arch: 'x64',
      model: 'fake',
      features: [],
      kernels: 'plain',
      cores: 2,
      coresOnline: 2,
      memoryBytes: 16 * GIB,
      memoryLimitBytes: 16 * GIB,
      memoryAvailableBytes: this.memoryAvailableBytes,
    }
  }

  async measureReadRate() {
    return 1e9
  }

  async measureDramBandwidth() {
    return 1e10
  }

  async measureLinkBandwidth() {
    return 5e10
  }

  weightBytes() {
    return 0
  }

  gpus: NativeGpu[] = []
  probeGpus() {
    return { gpus: this.gpus, reason: this.gpus.length > 0 ? '' : 'there is none in a test' }
  }

  attach(onEvents: (events: NativeEvent[]) => void): void {
    this.attached++
    this.#onEvents = onEvents
  }

  startedDevices: string[] = []
  async startDevice(device: string) {
    this.startedDevices.push(device)
    return this.probeGpus()
  }

  async load(request: NativeLoadRequest): Promise<NativeModel> {
    this.loads.push(request)
    if (this.onLoad) return this.onLoad(request)
    const model = new FakeModel(this, this.models.length + 1)
    this.models.push(model)
    return model
  }

  cancelLoad(loadId: number): void {
    this.cancelledLoads.push(loadId)
  }

  samplingOptions() {
    return ['temperature', 'topK', 'topP', 'minP', 'typicalP'].concat(
      ['repetition', 'presence', 'frequency'].map((kind) => `${kind}Penalty`),
    )
  }

  ref(): void {
    this.refs++
  }

  unref(): void {
    this.refs--
  }
}

let nextRequest = 1

export class FakeModel implements NativeModel {
  readonly headError = undefined
  readonly weightError = undefined
  readonly id: number
  readonly #addon: FakeAddon
  packed: NativePacked = { state: 'unused', reason: '' }
  readonly timings = { deviceMs: 1, weightsMs: 2, totalMs: 3 }
  written: string[] = []
  /** What writing answers. */
  onWrite: () => Promise<string> = async () => ''
  writePacked(path: string): Promise<string> {
    this.written.push(path)
    return this.onWrite()
  }

  // Tests know which kind they have asked for.
  submitted: { id: number; request: NativeRequest & Partial<Pick<NativeGenerateRequest, 'seed' | 'maxTokens'>> }[] = []
  cancelled: number[] = []
  closes: { drain: boolean; timeoutMs: number }[] = []
  /** What admit() and submit() throw. */
  full: Error | undefined
  refusal: Error | undefined
  admitted: number[] = []
  withdrawn = 0
  /** Resolves close(). */
  finishClose: () => void = () => {}

  constructor(addon: FakeAddon, id: number) {
    this.#addon = addon
    this.id = id
  }

  /** Have a place and are not submitted yet. */
  get pending(): number {
    return this.admitted.length - this.submitted.length - this.withdrawn
  }

  admit(): number {
    if (this.full) throw this.full
    this.admitted.push(nextRequest)
    return nextRequest++
  }

  withdraw(): void {
    this.withdrawn++
  }

  submit(id: number, request: NativeRequest): number {
    if (this.refusal) throw this.refusal
    this.submitted.push({ id, request })
    return id
  }

  cancel(request: number): void {
    this.cancelled.push(request)
  }

  observed: boolean[] = []
  observeSteps(on: boolean): void {
    this.observed.push(on)
  }

  stats() {
    return {
      steps: 1,
      decodeRows: 2,
      prefillRows: 3,
      copiedBytes: 4,
      prefetchedBytes: 5,
      droppedBytes: 14,
      stagedBytes: 15,
      fileBytes: 29,
      pinnedBytes: 0,
      hops: 16,
      arenaCopiedBytes: 17,
      switches: 18,
      stepMs: 19,
      switchMs: 20,
      streamedUnits: 6,
      weightBytesRead: 7,
      runningSequences: 8,
      waitingSequences: 9,
      kvBlocksUsed: 10,
      kvBlocksTotal: 11,
      promptTokens: 20,
      reusedTokens: 5,
      returnedTokens: 3,
      preemptions: 12,
      recomputations: 21,
      draftedTokens: 23,
      acceptedTokens: 22,
      draftPasses: 24,
      draftMs: 25,
      expertHits: 23,
      expertMapped: 24,
      expertCpu: 28,
      promotedBytes: 25,
      expertFrames: 26,
      usedFrames: 27,
      savedKvBytes: 13,
      tierKvBytes: 30,
    }
  }

  memory() {
    const own = { residentBytes: 0, ringBytes: 2, kvBytes: 3, workspaceBytes: 4 }
    const devices = [{ device: 'cpu', ...own, copiedBytes: 4, directHops: false }]
    return { hostBytes: 1, sharedBytes: 0, kvSwapBytes: 5, draftHostBytes: 0, draftDeviceBytes: 0, ...own, devices }
  }

  moved: { homes: Home[]; ringBytes: number[] }[] = []
  async setHomes(request: { homes: Home[]; ringBytes: number[] }): Promise<Home[]> {
    this.moved.push(request)
    return request.homes
  }

  traces: string[] = []
  async trace(path: string): Promise<void> {
    this.traces.push(path)
  }

  routeLogs: string[] = []
  async traceRoutes(path: string): Promise<void> {
    this.routeLogs.push(path)
  }

  arena: number[] = []
  async setArena(bytes: number): Promise<void> {
    this.arena.push(bytes)
  }

  expertCache: number[] = []
  async setExpertCache(bytes: number): Promise<number> {
    this.expertCache.push(bytes)
    return bytes
  }

  close(drain: boolean, timeoutMs: number): Promise<void> {
    this.closes.push({ drain, timeoutMs })
    return new Promise((resolve) => {
      this.finishClose = resolve
      if (this.submitted.length === 0) resolve()
    })
  }

  /** The engine's answer to the last request. */
  answer(tokens: number[], more: Partial<NativeTokensEvent> = {}): void {
    const { id } = this.submitted.at(-1)!
    const timings = more.finish === undefined ? {} : { timings: { queueMs: 1, firstTokenMs: 2, totalMs: 3 } }
    this.#addon.emit({
      type: 'tokens',
      model: this.id,
      request: id,
      tokens: Int32Array.from(tokens),
      ...timings,
      ...more,
    })
  }
}
