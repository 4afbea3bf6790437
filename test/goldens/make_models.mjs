// Writes test/goldens/models/* anew: `node test/goldens/make_models.mjs`. The goldens must be made again after it.
import { rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { runnerImport } from 'vite'

const here = fileURLToPath(new URL('.', import.meta.url))
const { GOLDEN_MODELS } = (await runnerImport(`${here}models.ts`)).module
const { writeRandomCheckpoint } = (await runnerImport(`${here}../reference/checkpoint.ts`)).module
for (const [name, options] of Object.entries(GOLDEN_MODELS)) {
  const dir = `${here}models/${name}`
  rmSync(dir, { recursive: true, force: true })
  writeRandomCheckpoint(dir, options)
  console.log(name)
}
