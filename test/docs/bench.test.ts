/** Every file of bench/ is named by a command of the documents or of its own, and runs, at a toy size (rules.ts). */
import { expect, test } from 'vitest'
import { benchFiles, commandsOf, commandsOfBench, documents } from './extract.ts'
import { SUPPORT } from './rules.ts'
import { collect, places, runAll } from './trials.ts'

const here = places()
const scripts = benchFiles().filter((path) => path.endsWith('.mjs') && !SUPPORT[path])
const found = [
  ...documents().flatMap(commandsOf),
  ...scripts.flatMap((path) => [...commandsOfBench(path), { text: `node ${path} --help`, where: path }]),
]
const { trials, failures } = collect(found, here)

test('every command has a rule, and names what is there', () => {
  expect(failures).toEqual([])
})

test('every file of bench/ is named by a command, or supports those that are', () => {
  const named = new Set(trials.map(({ file }) => file))
  expect(benchFiles().filter((path) => !named.has(path) && !SUPPORT[path])).toEqual([])
  expect(Object.keys(SUPPORT).filter((path) => !benchFiles().includes(path))).toEqual([])
})

runAll(
  trials.filter(({ file }) => file !== undefined),
  here,
)
