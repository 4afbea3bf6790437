import { expect, test, vi } from 'vitest'
import { isLogger, makeLog } from '../../lib/log.ts'

test('a logger has four functions', () => {
  const complete = { debug() {}, info() {}, warn() {}, error() {} }
  expect(isLogger(complete)).toBe(true)
  expect(isLogger(console)).toBe(true)
  for (const other of [undefined, null, 5, {}, { ...complete, warn: 'x' }]) expect(isLogger(other)).toBe(false)
})

test('fields and sentence arrive, with the logger as this; what it throws ends nothing', () => {
  const logger = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() }
  const log = makeLog(logger)
  log.warn({ request: 5 }, 'late')
  expect(logger.warn).toHaveBeenCalledExactlyOnceWith({ request: 5 }, 'late')
  expect(logger.warn.mock.contexts[0]).toBe(logger)
  logger.error.mockImplementation(() => {
    throw new Error('disk full')
  })
  log.error({}, 'x')
  expect(logger.error).toHaveBeenCalledOnce()
  makeLog(undefined).error({}, 'nobody hears')
})
