/** The process's streams and signals, as the commands use them. */
import { once } from 'node:events'
import { fstatSync } from 'node:fs'
import { constants } from 'node:os'
import { SingleBar } from 'cli-progress'
import { MillraceError } from '../errors.ts'
import { messageOf } from '../files.ts'
import type { Logger } from '../log.ts'
import type { LoadProgress } from '../options/model.ts'
import { withFlags } from './flag_words.ts'
import { formatBytes, withGigabytes } from './format.ts'
import { Pace } from './pace.ts'

/** Thrown to leave a command after Ctrl-C; not a failure to be told. */
export class Interrupted extends Error {}

export class Terminal {
  readonly #controller = new AbortController()
  readonly #onSignal = new Set<() => void>()
  #signalExit: number | undefined
  #bar: SingleBar | undefined
  quiet = false
  /** Of the command that was called. */
  flags: ReadonlySet<string> = new Set()

  constructor() {
    process.on('SIGINT', this.#handle)
    process.on('SIGTERM', this.#handle)
    // The exit is at once: what is still computed would go nowhere.
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      // A reader such as `head` that has seen enough is no failure.
      if (error.code === 'EPIPE') process.exit(0)
      this.complain(`millrace: standard output could not be written to: ${messageOf(error)}`)
      process.exit(1)
    })
    // Who reads no complaints may still read results.
    process.stderr.on('error', () => {})
    process.stdin.on('error', () => {}) // told by whoever reads it
  }

  /** Aborted by the first Ctrl-C or SIGTERM. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** Defined once a signal has come: 130 after Ctrl-C, 143 after SIGTERM. */
  get exitCode(): number | undefined {
    return this.#signalExit
  }

  /** Calls back at the first signal, until the returned function is called. */
  onInterrupt(callback: () => void): () => void {
    this.#onSignal.add(callback)
    return () => this.#onSignal.delete(callback)
  }

  #handle = (signal: NodeJS.Signals): void => {
    // The second one is meant.
    if (this.#signalExit !== undefined) process.exit(128 + constants.signals[signal])
    this.interrupt(signal)
  }

  /** Ends the command as a signal would. */
  interrupt(signal: NodeJS.Signals = 'SIGINT'): void {
    this.#signalExit = 128 + constants.signals[signal]
    for (const callback of this.#onSignal) callback()
    this.#controller.abort()
  }

  /** After a signal: an answer that stops in mid-sentence, with no word of why, reads as if it were whole. */
  tellSignal(): void {
    if (this.#signalExit === undefined) return
    this.note(`millrace: ${this.#signalExit === 128 + constants.signals.SIGINT ? 'interrupted' : 'terminated'}`)
  }

  close(): void {
    this.#stopBar()
    process.off('SIGINT', this.#handle)
    process.off('SIGTERM', this.#handle)
  }

  /** Writes to stdout, at the reader's pace. */
  async write(text: string): Promise<void> {
    if (text !== '' && !process.stdout.write(text)) await once(process.stdout, 'drain')
  }

  /** Somebody may be reading what is not the result, and wants it. */
  get isWatched(): boolean {
    return process.stderr.isTTY && !this.quiet
  }

  /** Writes to stderr, at the reader's pace. */
  async writeAside(text: string): Promise<void> {
    this.#stopBar()
    if (text !== '' && !process.stderr.write(text)) await once(process.stderr, 'drain')
  }

  /** All of standard input. Throws Interrupted at a signal, INVALID_ARGUMENT where it cannot be read. */
  async readStdin(): Promise<string> {
    checkStdin()
    process.stdin.setEncoding('utf8')
    const off = this.onInterrupt(() => process.stdin.destroy(new Interrupted()))
    try {
      let text = ''
      for await (const part of process.stdin) text += part
      return text
    } catch (error) {
      throw error instanceof Interrupted ? error : unreadable(messageOf(error), error)
    } finally {
      off()
    }
  }

  /** A line to stderr that is worth reading only where somebody waits. */
  note(line: string): void {
    if (this.quiet) return
    this.#stopBar()
    process.stderr.write(`${line}\n`)
  }

  /** What the library warns of, for load(); requests tell their failures themselves. */
  readonly logger: Logger = {
    debug() {},
    info() {},
    warn: (fields, message) => {
      if (!('request' in fields)) this.complain(`warning: ${this.words(message)}`)
    },
    error() {},
  }

  /** An error and what to do about it, in the words of the command. */
  explain({ code, message, remedy }: Pick<MillraceError, 'code' | 'message' | 'remedy'>): void {
    this.complain(`${code}: ${this.words(message)}`)
    this.complain(`  ${this.words(remedy)}`)
  }

  /** A sentence of the library's, its options as the command's flags. */
  words(text: string): string {
    return withGigabytes(withFlags(text, this.flags))
  }

  complain(line: string): void {
    this.#stopBar()
    process.stderr.write(`${line}\n`)
  }

  /** Shows a download and a load: a bar on a terminal, a line now and then elsewhere, with rate and time left. */
  progress(name: string): { report: (progress: LoadProgress) => void; done: () => void; end: () => void } {
    const began = performance.now()
    let told = began
    let total = 0
    let pace = new Pace('')
    return {
      report: (progress) => {
        const what = WORDS[progress.stage]
        if (what === undefined || this.quiet) return
        if (progress.stage === 'weights') total = progress.total
        if (pace.stage !== progress.stage) {
          this.#stopBar()
          pace = new Pace(progress.stage)
        }
        pace.report(progress)
        if (process.stderr.isTTY) {
          this.#bar ??= this.#startBar(`${what} ${name}`, progress.total)
          this.#bar.update(progress.done, { size: formatBytes(progress.done), pace: pace.text })
        } else if (performance.now() - told > LINE_INTERVAL_MS) {
          told = performance.now()
          const { done, total } = progress
          this.note(`${what} ${name}: ${formatBytes(done)} of ${formatBytes(total)}${pace.text && `, ${pace.text}`}`)
        }
      },
      done: () => {
        this.#stopBar()
        const seconds = (performance.now() - began) / 1000
        this.note(`loaded ${name}${total > 0 ? `: ${formatBytes(total)}` : ''} in ${seconds.toFixed(1)} s`)
      },
      end: () => this.#stopBar(),
    }
  }

  #startBar(name: string, total: number): SingleBar {
    const bar = new SingleBar({
      stream: process.stderr,
      format: `${name} [{bar}] {percentage} % | {size} of ${formatBytes(total)} | {pace}`,
      clearOnComplete: true,
      hideCursor: true,
    })
    bar.start(total, 0, { size: formatBytes(0), pace: '' })
    return bar
  }

  #stopBar(): void {
    this.#bar?.stop()
    this.#bar = undefined
  }
}

const LINE_INTERVAL_MS = 2000
/** What stages that count bytes are called. */
const WORDS: Partial<Record<LoadProgress['stage'], string>> = { download: 'fetching', weights: 'loading' }

/** A folder would be read as an empty text. Throws INVALID_ARGUMENT. */
export function checkStdin(): void {
  if (fstatSync(0).isDirectory()) throw unreadable('it is a folder')
}

function unreadable(why: string, cause?: unknown): MillraceError {
  return new MillraceError('INVALID_ARGUMENT', {
    message: `standard input cannot be read: ${why}`,
    remedy: 'give the text as an argument, through a pipe, or from a file by <',
    cause,
  })
}
