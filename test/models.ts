/** Where the tests find checkpoints. */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** The models that ship. */
export const MODELS = join(root, 'models')

/** A model that does not ship: in MILLRACE_MODELS, or in ../shared/models. Says so on stderr if it is in neither. */
export function findModel(name: string): string | undefined {
  return findFile(name, 'config.json')
}

/** The folder of that name that has the file, in the same places. */
export function findFile(name: string, file: string): string | undefined {
  const places = [process.env.MILLRACE_MODELS, join(root, '..', 'shared', 'models')]
  const found = places
    .filter((place) => place !== undefined)
    .map((place) => join(place, name))
    .find((dir) => existsSync(join(dir, file)))
  if (found === undefined) {
    const what = file === 'config.json' ? name : `${name}/${file}`
    process.stderr.write(`tests of ${what} are skipped: set MILLRACE_MODELS to the folder that has it\n`)
  }
  return found
}
