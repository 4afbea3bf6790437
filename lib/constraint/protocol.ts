/** What the compiling thread is asked, and what it answers. Requests are answered in their order. */
import { type ErrorCode, MillraceError } from '../errors.ts'
import { compileTask } from './compile.ts'
import type { Task } from './task.ts'

export interface Request {
  id: number
  task: Task
}

export type Reply =
  | { id: number; program: Uint32Array<ArrayBuffer> }
  | { id: number; error: { code: ErrorCode; message: string; remedy: string } }

export function answer({ id, task }: Request): Reply {
  try {
    return { id, program: compileTask(task) }
  } catch (error) {
    const { code, message, remedy } = MillraceError.fromNative(error)
    return { id, error: { code, message, remedy } }
  }
}
