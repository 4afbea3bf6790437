/** Every command of README.md and docs/ runs, at a toy size; one without a rule fails (rules.ts). */
import { expect, test } from 'vitest'
import { EXAMPLES } from '../../lib/cli/examples.ts'
import { commandsOf, documents } from './extract.ts'
import { collect, places, runAll } from './trials.ts'

const here = places()
const examples = Object.values(EXAMPLES).map((text) => ({ text, where: 'lib/cli/examples.ts' }))
const found = [...documents().flatMap(commandsOf), ...examples]
const { trials, failures } = collect(found, here)

test('every command has a rule, and names what is there', () => {
  expect(failures).toEqual([])
  expect(found.length).toBeGreaterThan(60)
})

test.each([
  'millrace frobnicate',
  'node bench/none.mjs',
  'npm run none',
  'make --all',
  'npx vitest run test/none.test.ts',
])('%s would fail', (text) => {
  expect(collect([{ text, where: 'here' }], here).failures).toHaveLength(1)
})

// Programs of bench/ are tried by bench.test.ts.
runAll(
  trials.filter(({ file }) => file === undefined),
  here,
)
