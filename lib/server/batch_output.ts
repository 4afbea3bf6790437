/** The output of a batch, as an earlier run has left it. */
import { type FileHandle, open, realpath, rename, rm } from 'node:fs/promises'
import { MillraceError } from '../index.ts'

interface Answered {
  /** Ids of lines that are not asked again. */
  done: Set<string>
  failed: number
  /** There are failures that pass: their lines are asked again. */
  again: boolean
}

/** A last line that was torn is cut off. Throws INVALID_ARGUMENT of a file that is no output of this input. */
export async function answeredIn(file: FileHandle, ids: ReadonlySet<string>): Promise<Answered> {
  const done = new Set<string>()
  let failed = 0
  let again = false
  let whole = 0
  for await (const { text, bytes } of wholeLines(file)) {
    whole += bytes
    if (text.trim() === '') continue
    const { custom_id, status, passes } = answerIn(text)
    if (custom_id === undefined || status === undefined || !ids.has(custom_id)) {
      throw new MillraceError('INVALID_ARGUMENT', {
        message: `the output file has a line that answers none of the input: ${text.slice(0, 80)}`,
        remedy: 'pass an output file that is not there yet, or that of an earlier run with the same input',
      })
    }
    if (passes) {
      again = true
      continue
    }
    done.add(custom_id)
    if (status !== 200) failed++
  }
  if ((await file.stat()).size > whole) await file.truncate(whole)
  return { done, failed, again }
}

/**
 * Leaves out failures that pass, so that each id has one line in the end. The file is replaced by a whole one: killed at any
 * time, the run has lost no answer. Closes `file`, and returns the new one. Throws WRITE_FAILED; all is as it was then.
 */
export async function withoutPassing(file: FileHandle, path: string): Promise<FileHandle> {
  let beside = ''
  let next: FileHandle | undefined
  try {
    const place = await realpath(path)
    beside = `${place}.${process.pid}.tmp`
    next = await open(beside, 'ax+', (await file.stat()).mode)
    for await (const { text } of wholeLines(file)) {
      if (text.trim() !== '' && !answerIn(text).passes) await next.appendFile(`${text}\n`)
    }
    await next.sync()
    await rename(beside, place)
  } catch (cause) {
    await next?.close()
    if (next) await rm(beside, { force: true })
    const message = `the output file ${path} could not be rid of failures that are asked again: ${(cause as Error).message}`
    throw new MillraceError('WRITE_FAILED', { message, cause })
  }
  await file.close()
  return next
}

async function* wholeLines(file: FileHandle): AsyncGenerator<{ text: string; bytes: number }, void, undefined> {
  let held = Buffer.alloc(0)
  for await (const part of file.createReadStream({ start: 0, autoClose: false })) {
    held = Buffer.concat([held, part as Buffer])
    for (let end = held.indexOf(10); end !== -1; end = held.indexOf(10)) {
      const text = held.subarray(0, end).toString()
      held = held.subarray(end + 1)
      yield { text, bytes: end + 1 }
    }
  }
}

/** A full queue, a time that was up, a GPU or a model that was not there: another time it may be answered. */
const PASSING = [429, 503, 504]

interface Answer {
  custom_id?: string | undefined
  status?: number | undefined
  passes?: boolean
}

function answerIn(text: string): Answer {
  try {
    const { custom_id, response } = JSON.parse(text)
    const status = response?.status_code
    const passes = PASSING.includes(status) || response?.body?.error?.code === 'MODEL_NOT_LOADED'
    return { custom_id: typeof custom_id === 'string' ? custom_id : undefined, status, passes }
  } catch {
    return {}
  }
}
