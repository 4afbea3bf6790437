/** The tiny models of every family, which share one tokenizer. */
import { mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { MODELS } from '../models.ts'

export const FAMILIES = fileURLToPath(new URL('families', import.meta.url))
export const familyNames = readdirSync(FAMILIES, { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && !entry.name.startsWith('_'))
  .map(({ name }) => name)

const made: string[] = []

/** A folder with the family's files and a tokenizer beside them, until removeFamilyFolders(). */
export function familyFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-family-'))
  made.push(folder)
  for (const file of ['config.json', 'model.safetensors']) symlinkSync(join(FAMILIES, name, file), join(folder, file))
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
    symlinkSync(join(MODELS, 'stories260k', file), join(folder, file))
  }
  return folder
}

export function removeFamilyFolders(): void {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true })
}
