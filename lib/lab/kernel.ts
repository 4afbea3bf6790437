/** Kernels of one's own, as bytes or as files. */
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import type { NativeKernelImage } from '../binding.ts'
import { MillraceError } from '../errors.ts'
import { invalidArgument } from '../options/validate.ts'
import { checkOperation, operations } from './operations.ts'

function checkReplaceable(operation: string): void {
  checkOperation(operation)
  const replaceable = operations().filter((known) => known.replaceable)
  if (replaceable.some(({ name }) => name === operation)) return
  throw invalidArgument(`one of ${replaceable.map(({ name }) => name).join(', ')}`, 'operation', operation)
}

/** An image as the native side takes it. */
export async function readKernel(operation: string, image: string | Uint8Array): Promise<NativeKernelImage> {
  checkReplaceable(operation)
  if (image instanceof Uint8Array) return { operation, source: `the kernel of ${operation}`, image: copyOf(image) }
  if (typeof image !== 'string') throw invalidArgument('a path or a Uint8Array', `the kernel of ${operation}`, image)
  try {
    return { operation, source: basename(image), image: copyOf(await readFile(image)) }
  } catch (cause) {
    throw new MillraceError('INVALID_ARGUMENT', {
      message: `the kernel of ${operation} could not be read: ${(cause as Error).message}`,
      remedy: 'pass the path of a cubin, a fatbin or a PTX file',
      cause,
    })
  }
}

/** Node's Buffer is a Uint8Array, but the native side asks for exactly that. */
function copyOf(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(bytes)
}
