/** Files that commands write besides stdout. */
import { access, constants, stat, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { MillraceError } from '../errors.ts'
import { writeFailed } from '../files.ts'
import type { Model } from '../model/model.ts'

/** Told before minutes are spent on what the file is to hold. What it has is left as it is. */
export async function checkOutput(flag: string, path: string | undefined): Promise<void> {
  if (path === undefined) return
  const refuse = (why: string, cause?: unknown) =>
    new MillraceError('INVALID_ARGUMENT', {
      message: `${flag}: the file cannot be written: ${why}`,
      remedy: 'pass the path of a file in a folder that exists and that this user may write to',
      cause,
    })
  const there = await stat(path).catch(() => undefined)
  if (there?.isDirectory()) throw refuse(`${path} is a folder`)
  try {
    await access(there ? path : dirname(path), constants.W_OK)
    if (!there && !(await stat(dirname(path))).isDirectory()) throw refuse(`${dirname(path)} is no folder`)
  } catch (cause) {
    throw MillraceError.isInstance(cause) ? cause : refuse((cause as Error).message, cause)
  }
}

/** Throws WRITE_FAILED. */
export async function writeOutput(flag: string, path: string | undefined, text: () => string): Promise<void> {
  if (path === undefined) return
  try {
    await writeFile(path, text())
  } catch (cause) {
    throw writeFailed(flag, path, cause)
  }
}

/** Ends a trace. Throws WRITE_FAILED where the file has not all of it. */
export async function endTrace(model: Model, { trace }: { trace?: string }): Promise<void> {
  if (trace !== undefined) await model.trace(null)
}
