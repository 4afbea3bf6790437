/** What the readers of all methods share. */
import { z } from 'zod'
import { MillraceError } from '../../errors.ts'
import { fieldText, show } from '../json.ts'

export const groupSize = z
  .int({ error: 'a positive integer, or -1' })
  .refine((value) => value === -1 || (value > 0 && value < 2 ** 31), { error: 'a positive integer, or -1' })

export const textList = z.array(fieldText(), { error: 'an array of names' })

export function refusePacking(where: string, field: string, found: string | null | undefined): void {
  if (found != null && found !== 'int32') throw unsupported(where, field, found, 'int32')
}

export function unsupported(where: string, field: string, found: unknown, supported: string): MillraceError {
  return new MillraceError('CHECKPOINT_UNSUPPORTED', {
    message: `${where}: field '${field}': ${show(found)} is not supported, expected ${supported}`,
    remedy: `supported here: ${supported}`,
  })
}
