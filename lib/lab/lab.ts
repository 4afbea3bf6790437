/** One device for experiments: its memory, streams and events, and every built-in operation by itself. */
import { z } from 'zod'
import { addon, type NativeLab, type NativeLaunch } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { readMachine } from '../model/machine.ts'
import { awaitNative } from '../model/runtime.ts'
import { invalidArgument, validate } from '../options/validate.ts'
import { chooseDevice } from '../plan/plan.ts'
import { readKernel } from './kernel.ts'
import { argumentNames, checkOperation, describe } from './operations.ts'

export interface LabOptions {
  /** 'cpu', 'cuda' or 'cuda:<index>'. Default 'auto': a GPU if there is one. */
  device?: string | undefined
  /** Threads that compute on the CPU. Default: the cores that this process may use. */
  threads?: number | undefined
}

const labOptions = z.strictObject({
  device: z
    .string()
    .regex(/^(auto|cpu|cuda(:\d{1,3})?)$/, { error: `'auto', 'cpu', 'cuda' or 'cuda:<index>'` })
    .optional(),
  threads: z.int().min(1).max(1024).optional(),
})

/** A part of a buffer; the offset is a multiple of 256. */
export type BufferPart = LabBuffer | { buffer: LabBuffer; offset: number }

/** An operation, ready to be launched. */
export interface Work {
  operation: string
  dimensions: Readonly<Record<string, number>>
  /** By the names of its arguments. */
  buffers: Readonly<Record<string, BufferPart>>
  /** Instead of the built-in one. */
  kernel?: LabKernel | undefined
}

export interface TimeOptions {
  /** Launches one after the other that are timed together, the works in turn. Default: 20, or one of each work. */
  launches?: number | undefined
  /** Default 10. */
  repeats?: number | undefined
}

/**
 * Opens a device. Rejects with INVALID_ARGUMENT, ADDON_NOT_BUILT or DEVICE_UNAVAILABLE. Everything that a lab does runs
 * in the order of its calls, on a thread of the lab's own; what a call rejects with, the next ones need not.
 */
export async function openLab(options: LabOptions = {}): Promise<Lab> {
  const { device = 'auto', threads } = validate(labOptions, options, 'lab options')
  const machine = readMachine(addon())
  const chosen = chooseDevice(device, machine)
  return new Lab(chosen, await awaitNative(() => addon().lab.open(chosen, threads ?? machine.cores)))
}

export class Lab {
  /** 'cpu', 'cuda:0', ... */
  readonly device: string
  readonly #native: NativeLab
  #closed = false

  /** Use openLab(). */
  constructor(device: string, native: NativeLab) {
    this.device = device
    this.#native = native
  }

  /** Memory of the device, or `'host'`: pinned memory that both reach. Its content is undefined until written. */
  async buffer(bytes: number, place: 'device' | 'host' = 'device'): Promise<LabBuffer> {
    checkCount(bytes, 'bytes', 1)
    if (place !== 'device' && place !== 'host') throw invalidArgument(`'device' or 'host'`, 'place', place)
    return new LabBuffer(this.#open(), await awaitNative(() => this.#open().allocate(bytes, place === 'host')), bytes)
  }

  async stream(): Promise<LabStream> {
    return new LabStream(this.#open(), await awaitNative(() => this.#open().createStream()))
  }

  async event(): Promise<LabEvent> {
    return new LabEvent(this.#open(), await awaitNative(() => this.#open().createEvent()))
  }

  /**
   * Loads a kernel of your own in the place of one operation: cubin, fatbin or PTX, as bytes or as a file's path, with
   * an `extern "C"` kernel of the operation's name (see docs/KERNELS.md). Rejects with INVALID_ARGUMENT where it does not
   * load; on the CPU always.
   */
  async loadKernel(operation: string, image: string | Uint8Array): Promise<LabKernel> {
    const loaded = await readKernel(operation, image)
    const { id, ...facts } = await awaitNative(() => this.#open().loadKernel(loaded))
    return new LabKernel(this.#open(), id, operation, facts)
  }

  /** Buffers of an operation with random inputs, the same for one seed on every device, and outputs of NaNs. */
  async prepare(
    operation: string,
    dimensions: Readonly<Record<string, number>>,
    options: { seed?: number; kernel?: LabKernel } = {},
  ): Promise<Work> {
    const { seed = 1, kernel } = options
    checkCount(seed, 'seed', 0)
    const problem = describe(operation, dimensions)
    const buffers: Record<string, LabBuffer> = {}
    for (const argument of problem.arguments) {
      // A model's embedding table lies in pinned memory, too.
      buffers[argument.name] = await this.buffer(argument.bytes, argument.name === 'table' ? 'host' : 'device')
    }
    const work = { operation, dimensions: problem.dimensions, buffers, kernel }
    await this.randomise(work, { seed })
    return work
  }

  /** Random values in the inputs of a work; its outputs become NaNs unless `outputs` is false. */
  async randomise(work: Work, options: { seed?: number; outputs?: boolean } = {}): Promise<void> {
    const { seed = 1, outputs = true } = options
    await awaitNative(() => this.#open().randomise(toNative(work), seed, outputs))
  }

  /**
   * Microseconds a launch, one figure a repeat: the works one after the other in turn, as a model launches them (on a
   * GPU one graph of dependent launches). Give several works with weights of their own where caches must not hold them.
   */
  async time(works: Work | readonly Work[], options: TimeOptions = {}): Promise<number[]> {
    const list = [works].flat() as Work[]
    if (list.length === 0) throw invalidArgument('at least one work', 'works', works)
    const { launches = Math.max(20, list.length), repeats = 10 } = options
    checkCount(launches, 'launches', 1)
    checkCount(repeats, 'repeats', 1)
    return awaitNative(() => this.#open().time(list.map(toNative), launches, repeats))
  }

  /** Bytes a second that a pass over far more than the caches hold reads, the best of several. */
  readBandwidth(): Promise<number> {
    return awaitNative(() => this.#open().readBandwidth())
  }

  /** Frees everything, after what was enqueued has run. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await awaitNative(() => this.#native.close())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #open(): NativeLab {
    if (this.#closed) throw new MillraceError('MODEL_CLOSED', { message: 'the lab is closed', remedy: 'open another' })
    return this.#native
  }
}

/** What has a number on the native side. */
class Thing {
  /** @internal */
  readonly native: NativeLab
  /** @internal */
  readonly id: number
  constructor(native: NativeLab, id: number) {
    this.native = native
    this.id = id
  }

  /** Frees it, after what was enqueued has run. */
  release(): Promise<void> {
    return awaitNative(() => this.native.release(this.id))
  }
}

export class LabBuffer extends Thing {
  readonly bytes: number
  constructor(native: NativeLab, id: number, bytes: number) {
    super(native, id)
    this.bytes = bytes
  }

  /** After everything enqueued before has run. */
  write(data: ArrayBufferView, offset = 0): Promise<void> {
    if (!ArrayBuffer.isView(data)) throw invalidArgument('a typed array', 'data', data)
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    return awaitNative(() => this.native.write(this.id, checkCount(offset, 'offset', 0), bytes))
  }

  /** After everything enqueued before has run. Default: all of it. */
  read(offset = 0, bytes: number = this.bytes - offset): Promise<ArrayBuffer> {
    checkCount(bytes, 'bytes', 0)
    return awaitNative(() => this.native.read(this.id, checkCount(offset, 'offset', 0), bytes))
  }
}

export class LabEvent extends Thing {
  /** Milliseconds from this event to a later one; waits until both are reached. */
  async until(later: LabEvent): Promise<number> {
    return awaitNative(() => this.native.elapsed(this.id, eventOf(later, 'later').id))
  }
}

export class LabKernel extends Thing {
  readonly operation: string
  /** Threads of a block; registers and bytes of local memory a thread; bytes of static shared memory. */
  readonly facts: { threads: number; registers: number; sharedBytes: number; localBytes: number }
  constructor(native: NativeLab, id: number, operation: string, facts: LabKernel['facts']) {
    super(native, id)
    this.operation = operation
    this.facts = facts
  }
}

/** Calls enqueue: the promise resolves when that is done, not when it has run. */
export class LabStream extends Thing {
  /** Between buffers of either place. Default: as much as both hold. */
  copy(to: BufferPart, from: BufferPart, bytes?: number): Promise<void> {
    const [target, source] = [partOf(to, 'to'), partOf(from, 'from')]
    const count = bytes ?? Math.min(target.buffer.bytes - target.offset, source.buffer.bytes - source.offset)
    checkCount(count, 'bytes', 0)
    return awaitNative(() =>
      this.native.copy(this.id, target.buffer.id, target.offset, source.buffer.id, source.offset, count),
    )
  }

  /** Sets bytes. */
  fill(buffer: BufferPart, value: number, bytes?: number): Promise<void> {
    const part = partOf(buffer, 'buffer')
    const count = checkCount(bytes ?? part.buffer.bytes - part.offset, 'bytes', 0)
    if (!Number.isInteger(value) || value < 0 || value > 255) throw invalidArgument('a byte', 'value', value)
    return awaitNative(() => this.native.fill(this.id, part.buffer.id, part.offset, count, value))
  }

  record(event: LabEvent): Promise<void> {
    return awaitNative(() => this.native.record(this.id, eventOf(event).id))
  }

  /** Holds the stream until the event is reached. */
  wait(event: LabEvent): Promise<void> {
    return awaitNative(() => this.native.wait(this.id, eventOf(event).id))
  }

  launch(work: Work): Promise<void> {
    return awaitNative(() => this.native.launch(this.id, toNative(work)))
  }

  /** Resolves when everything enqueued has run; rejects with what a device has to say of it. */
  synchronize(): Promise<void> {
    return awaitNative(() => this.native.synchronize(this.id))
  }
}

function partOf(part: BufferPart, name: string): { buffer: LabBuffer; offset: number } {
  if (part instanceof LabBuffer) return { buffer: part, offset: 0 }
  if (part?.buffer instanceof LabBuffer) return { buffer: part.buffer, offset: checkCount(part.offset, 'offset', 0) }
  throw invalidArgument('a buffer of this lab', name, part)
}

function eventOf(event: LabEvent, name = 'event'): LabEvent {
  if (event instanceof LabEvent) return event
  throw invalidArgument('an event of this lab', name, event)
}

function toNative(work: Work): NativeLaunch {
  if (typeof work !== 'object' || work === null) throw invalidArgument('a work, as prepare() makes it', 'work', work)
  const { operation, dimensions, buffers, kernel } = work
  const names = argumentNames().get(checkOperation(operation))!
  for (const [name, value] of Object.entries({ dimensions, buffers })) {
    if (typeof value !== 'object' || value === null) throw invalidArgument('an object', `${name} of the work`, value)
  }
  if (kernel !== undefined && !(kernel instanceof LabKernel)) {
    throw invalidArgument('a kernel of this lab', 'kernel of the work', kernel)
  }
  const unknown = Object.keys(buffers).find((name) => !names.includes(name))
  if (unknown !== undefined) throw invalidArgument(`one of ${names.join(', ')}`, `an argument of ${operation}`, unknown)
  const parts = names.map((name) => {
    if (buffers[name] === undefined) throw invalidArgument('a buffer', `${name} of ${operation}`, undefined)
    const { buffer, offset } = partOf(buffers[name], name)
    return { id: buffer.id, offset }
  })
  return { operation, dimensions: { ...dimensions }, buffers: parts, kernel: kernel?.id ?? 0 }
}

function checkCount(value: number, name: string, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value
  throw invalidArgument(`an integer of at least ${least}`, name, value)
}
