/**
 * Chunks of an answer, each one write of one text. ServerResponse.write() makes four writes of a chunk and gathers them a
 * tick later, which costs as much again as the system's own part.
 */
import { ServerResponse } from 'node:http'
import { Socket } from 'node:net'

export class ChunkWriter {
  readonly #response: ServerResponse
  /** Headers are written, and with them that chunks follow. */
  #begun = false

  /** Undefined where the answer is no chunked one over a connection of node's HTTP/1.1, as in tests that inject requests. */
  static of(destination: unknown): ChunkWriter | undefined {
    if (!(destination instanceof ServerResponse) || destination.headersSent) return undefined
    const { socket, req, useChunkedEncodingByDefault } = destination
    if (!(socket instanceof Socket) || !useChunkedEncodingByDefault || req.method === 'HEAD') return undefined
    return new ChunkWriter(destination)
  }

  private constructor(response: ServerResponse) {
    this.#response = response
  }

  /** Whether there is room for more; else onDrain() calls back when there is. */
  write(text: string): boolean {
    const response = this.#response
    const { socket } = response
    if (!this.#begun || !response.chunkedEncoding || !(socket instanceof Socket)) {
      this.#begun = true
      return response.write(text)
    }
    const bytes = Buffer.byteLength(text)
    // ASCII needs no encoding.
    return socket.write(`${bytes.toString(16)}\r\n${text}\r\n`, bytes === text.length ? 'latin1' : 'utf8')
  }

  onDrain(callback: () => void): void {
    const { socket } = this.#response
    if (socket?.writableNeedDrain) socket.once('drain', callback)
    else this.#response.once('drain', callback)
  }

  end(): void {
    this.#response.end()
  }
}
