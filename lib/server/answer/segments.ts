/** An answer as pieces one behind the other: texts, reasonings and calls, each opened, filled and closed. */
import type { Generation, GenerationChunk } from '../../index.ts'

export type Segment =
  | { type: 'text'; index: number }
  | { type: 'reasoning'; index: number }
  | { type: 'call'; index: number; id: string; name: string }

export type SegmentEvent =
  | { kind: 'open'; segment: Segment }
  /** `chunk`: the first event of each has it. */
  | { kind: 'delta'; segment: Segment; text: string; chunk: GenerationChunk | undefined }
  | { kind: 'close'; segment: Segment; text: string }

/** White space alone makes no text: it is what models put between reasoning and calls. */
export class Segments {
  #open: Segment | undefined
  #text = ''
  /** White space that belongs to a text, if one comes. */
  #held = ''
  #count = 0;

  *take(chunk: GenerationChunk): Generator<SegmentEvent, void, undefined> {
    let told: GenerationChunk | undefined = chunk
    for (const part of chunk.parts ?? [{ type: 'text' as const, text: chunk.text }]) {
      if (part.type === 'finish') continue
      if (part.type === 'call') {
        yield* this.#start({ type: 'call', index: this.#count, id: part.id, name: part.name })
        continue
      }
      let { text } = part
      const type = part.type === 'arguments' ? 'call' : part.type
      if (this.#open?.type !== type) {
        text = this.#held + text
        this.#held = ''
        if (text.trim() === '') {
          this.#held = text
          continue
        }
        yield* this.#start({ type: type as 'text' | 'reasoning', index: this.#count })
      }
      if (text === '') continue
      this.#text += text
      yield { kind: 'delta', segment: this.#open!, text, chunk: told }
      told = undefined
    }
  }

  *end(): Generator<SegmentEvent, void, undefined> {
    if (this.#open) yield { kind: 'close', segment: this.#open, text: this.#text }
    this.#open = undefined
    this.#text = ''
    this.#held = ''
  }

  *#start(segment: Segment): Generator<SegmentEvent, void, undefined> {
    yield* this.end()
    this.#count++
    this.#open = segment
    yield { kind: 'open', segment }
  }
}

/** All of a generation's. `onChunk` is told of each chunk that comes. */
export async function* segmentsOf(
  generation: Generation,
  onChunk: (chunk: GenerationChunk) => void = () => {},
): AsyncGenerator<SegmentEvent, void, undefined> {
  const segments = new Segments()
  for await (const chunk of generation) {
    onChunk(chunk)
    yield* segments.take(chunk)
  }
  yield* segments.end()
}
