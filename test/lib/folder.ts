/** Folders for tests, removed after the file's tests. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll } from 'vitest'

const made: string[] = []
afterAll(() => Promise.all(made.splice(0).map((folder) => rm(folder, { recursive: true, force: true }))))

/** A folder with these files: texts and bytes as they are, other values as JSON. */
export async function temporaryFolder(files: Record<string, unknown>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-'))
  made.push(folder)
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(
      path,
      typeof content === 'string' || content instanceof Uint8Array ? content : JSON.stringify(content),
    )
  }
  return folder
}

/** A safetensors file of float32 tensors of one zero each. */
export function safetensors(names: readonly string[]): Uint8Array {
  const header = Buffer.from(
    JSON.stringify(
      Object.fromEntries(
        names.map((name, index) => [name, { dtype: 'F32', shape: [1], data_offsets: [index * 4, index * 4 + 4] }]),
      ),
    ),
  )
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([length, header, Buffer.alloc(names.length * 4)])
}
