/** Tiny models that are kept without a tokenizer, one folder a family and one a quantised format. */
import { mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { MODELS } from '../models.ts'

export const FAMILIES = fileURLToPath(new URL('families', import.meta.url))
export const FORMATS = fileURLToPath(new URL('formats', import.meta.url))
const BF16_TIED = fileURLToPath(new URL('models/bf16-tied', import.meta.url))

const foldersOf = (root: string) =>
  readdirSync(root, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith('_'))
    .map(({ name }) => name)
export const familyNames = foldersOf(FAMILIES)
export const formatNames = foldersOf(FORMATS)

const made: string[] = []

function linked(model: string, tokenizer: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-golden-'))
  made.push(folder)
  for (const file of ['config.json', 'model.safetensors']) symlinkSync(join(model, file), join(folder, file))
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) symlinkSync(join(tokenizer, file), join(folder, file))
  return folder
}

/** A folder with the model's files and a tokenizer beside them, until removeFolders(). */
export const familyFolder = (name: string) => linked(join(FAMILIES, name), join(MODELS, 'stories260k'))
export const formatFolder = (name: string) => linked(join(FORMATS, name), BF16_TIED)

export function removeFolders(): void {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true })
}
