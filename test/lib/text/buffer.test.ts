import fc from 'fast-check'
import { expect, test } from 'vitest'
import { TextBuffer } from '../../../lib/text/buffer.ts'

test('is the text that went in, in any number of pieces, until it is taken', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ maxLength: 3 }), { maxLength: 300 }), (pieces) => {
      const buffer = new TextBuffer()
      for (const piece of pieces) buffer.push(piece)
      expect(buffer.toString()).toBe(pieces.join(''))
      expect(buffer.empty).toBe(pieces.join('') === '')
      expect(buffer.take()).toBe(pieces.join(''))
      expect(buffer.empty).toBe(true)
      buffer.push('x')
      expect(buffer.take()).toBe('x')
    }),
  )
})
