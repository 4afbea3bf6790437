/** What millrace/lab publishes as data, against what encoders and kernels use. */
import { expect, test } from 'vitest'
import { addon } from '../../lib/binding.ts'
import { describe, KERNEL_ARGUMENTS, operations, SHAPES, SLAB_LAYOUT, shapedOperations } from '../../lib/lab/index.ts'

test('the slab layout is the native one', () => {
  const native = addon().lab.slabLayout()
  expect({
    ...SLAB_LAYOUT,
    nibbleOf: [...SLAB_LAYOUT.nibbleOf],
    elementOf: [...SLAB_LAYOUT.elementOf],
    scaleOf: [...SLAB_LAYOUT.scaleOf],
  }).toEqual(native)
  expect(new Set(SLAB_LAYOUT.nibbleOf).size).toBe(1024)
})

test('the arguments of kernels are the native ones', () => {
  expect(KERNEL_ARGUMENTS).toEqual(addon().lab.kernelArguments())
})

test('every operation has a place in every shape, and sizes', () => {
  for (const { name, arguments: all } of operations()) {
    for (const spec of Object.values(SHAPES)) {
      for (const { operation, dimensions } of shapedOperations(name, spec, { rows: 2 })) {
        const problem = describe(operation, dimensions)
        expect(problem.arguments.map((argument) => argument.name)).toEqual(all.map((argument) => argument.name))
        for (const { shape, bytes } of problem.arguments) {
          expect(bytes).toBeGreaterThan(0)
          expect(bytes % shape.reduce((product, extent) => product * extent, 1)).toBe(0)
        }
        expect(problem.bytes).toBeGreaterThan(0)
      }
    }
  }
})

test.each([
  ['gemv_q5', {}, /did you mean 'gemv_q4'/, /expected one of gemv_q4/],
  [
    'gemv_q4',
    { rows: 257, n: 64, k: 64 },
    /operations\(\)/,
    /an integer from 1 to 256 for rows of gemv_q4 but received 257/,
  ],
  ['gemv_q4', { n: 64 }, /operations\(\)/, /for k of gemv_q4 but received nothing/],
  ['experts_q4', { experts: 4, topK: 5, n: 64, k: 64 }, /operations\(\)/, /no more than there are experts for topK/],
  ['experts_q4', { experts: 4, topK: 2, n: 64, k: 64, epilogue: 1 }, /operations\(\)/, /0 or 2 for epilogue/],
  ['gemv_q4', { n: 64, k: 64, group: 24 }, /operations\(\)/, /a multiple of 16 for group/],
  ['rms_norm', { width: 64, wide: 1 }, /dimensions are rows, width, epsilon/, /unknown dimension 'wide'/],
  ['attention_decode', { context: 9, heads: 3, kvHeads: 2, headDim: 8 }, /./, /a divisor of heads for kvHeads/],
])('%s %j is refused', (operation, dimensions, remedy, message) => {
  let error: unknown
  try {
    describe(operation, dimensions as Record<string, number>)
  } catch (thrown) {
    error = thrown
  }
  expect(error).toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(message),
    remedy: expect.stringMatching(remedy),
  })
})
