/** The server proves the API: it is made of public names alone. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT } from '../../built.ts'

const folder = join(ROOT, 'lib', 'server')
const files = readdirSync(folder, { recursive: true })
  .map(String)
  .filter((name) => name.endsWith('.ts'))

test('no file imports anything of lib/ but its index', () => {
  expect(files.length).toBeGreaterThan(20)
  const wrong = files.flatMap((file) => {
    const text = readFileSync(join(folder, file), 'utf8')
    return [...text.matchAll(/ from '(\.[^']+)'/g)]
      .map(([, path]) => relative(join(ROOT, 'lib'), resolve(folder, file, '..', path!)))
      .filter((path) => !path.startsWith('server/') && path !== 'index.ts')
      .map((path) => `${file}: ${path}`)
  })
  expect(wrong).toEqual([])
})

test('what is bundled is imported by one file alone, but for types', () => {
  for (const file of files.filter((name) => name !== 'vendor.ts')) {
    const text = readFileSync(join(folder, file), 'utf8')
    expect(text, file).not.toMatch(/^import (?!type )[^\n]*from '(fastify|@fastify\/cors|pino|prom-client)'/m)
  }
})
