/** What the commands that serve make of their words. */
import { Command } from 'commander'
import { expect, test } from 'vitest'
import { addServedFlags, modelsOf, type ServedFlags, servedLoad } from '../../../lib/cli/served.ts'

function loadOf(...words: string[]) {
  const command = addServedFlags(new Command())
    .exitOverride()
    .configureOutput({ writeErr() {} })
  command.parse(words, { from: 'user' })
  return servedLoad(command.opts<ServedFlags>())
}

test('flags of load() become its options, and what is not given is left to the config file', () => {
  expect(loadOf()).toEqual({ load: {}, ramBudget: undefined })
  expect(
    loadOf(
      ...['--device', 'cpu', '--placement', 'streamed', '--ring', '3', '--context', '128', '--threads', '2'],
      ...['--batch', '8', '--max-sequences', '4', '--kv-swap', '1GiB', '--ram-budget', '8GiB', '--max-queue', '5'],
      ...['--weights', 'q4', '--head', 'q8', '--speculation', 'ngram', '--generation-config', 'none'],
      ...['--revision', 'v1', '--offline', '--no-cache', '--no-co-execute'],
    ),
  ).toEqual({
    load: {
      ...{ device: 'cpu', placement: 'streamed', ring: 3, contextLength: 128, threads: 2, batch: 8, maxSequences: 4 },
      ...{ kvSwap: '1GiB', maxQueue: 5, weights: 'q4', head: 'q8', speculation: { method: 'ngram' } },
      ...{ generationConfig: 'none', revision: 'v1', offline: true, cache: false, coExecute: false },
    },
    ramBudget: '8GiB',
  })
})

test('names of models', () => {
  expect(modelsOf(['models/demo', 'a=b/c.gguf', 'x/y.gguf', 'owner/name'])).toEqual({
    demo: 'models/demo',
    a: 'b/c.gguf',
    y: 'x/y.gguf',
    name: 'owner/name',
  })
  expect(() => modelsOf(['a/demo', 'b/demo'])).toThrow('two models are named demo')
  const inherited = modelsOf(['constructor=a', 'toString=b', '__proto__=c'])
  expect(Object.entries(inherited)).toEqual([
    ['constructor', 'a'],
    ['toString', 'b'],
    ['__proto__', 'c'],
  ])
})
