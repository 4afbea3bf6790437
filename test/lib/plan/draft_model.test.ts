/** Plans of a model and its draft model: budgets are for both, and what is too large is named. */
import { describe, expect, test } from 'vitest'
import { buildDecoder } from '../../../lib/checkpoint/decoder.ts'
import { nativeDraft } from '../../../lib/model/draft_model.ts'
import type { PlanOptions } from '../../../lib/options/model.ts'
import { planBeside } from '../../../lib/plan/draft_model.ts'
import { makePlan } from '../../../lib/plan/plan.ts'
import * as fixture from './fixture.ts'

const { program, slabs, gpu } = fixture
const machine = { ...fixture.machine, gpus: [gpu, gpu] }
const small = { contextLength: 64, maxSequences: 1 }
const draft = (options = {}) => ({ program, slabs, options: { model: 'draft', ...options } })

describe('draft models', () => {
  test('ramBudget is for both', () => {
    const alone = makePlan(program, slabs, { device: 'cuda', kvSwap: 0, ...small }, machine)
    const ramBudget = Math.ceil(alone.hostBytes * 1.5)
    expect(() =>
      planBeside(program, slabs, { device: 'cuda', kvSwap: 0, ramBudget, ...small }, machine, draft()),
    ).toThrow(expect.objectContaining({ code: 'OUT_OF_MEMORY' }))
  })

  test('what this process may use is for both', () => {
    const alone = makePlan(program, slabs, { device: 'cuda', kvSwap: 0, ...small }, machine)
    const tight = { ...machine, memoryLimitBytes: Math.ceil(alone.hostBytes * 1.5) }
    expect(() => planBeside(program, slabs, { device: 'cuda', kvSwap: 0, ...small }, tight, draft())).toThrow(
      expect.objectContaining({ code: 'OUT_OF_MEMORY' }),
    )
  })

  test('keys and values of windows are planned as they are kept', () => {
    const windowed = buildDecoder({
      ...fixture.shape,
      layer: (layer) => ({ ...fixture.shape.layer(layer), window: layer === 0 ? 0 : 64 }),
    }).program
    const kv = [
      { layers: 1, window: 0, bytesPerToken: 128, bytesPerSequence: 0 },
      { layers: 3, window: 64, bytesPerToken: 384, bytesPerSequence: 0 },
    ]
    const options: PlanOptions = { device: 'cuda', contextLength: 4096 }
    const made = planBeside(program, slabs, options, machine, {
      program: windowed,
      slabs: {
        ...slabs,
        kv,
        units: slabs.units.map((unit) => (unit.kvClass === 0 && unit.layer > 0 ? { ...unit, kvClass: 1 } : unit)),
      },
      options: { model: 'draft' },
    }).draft!
    const native = nativeDraft({} as never, made, machine)
    // As DraftModel has it: so many blocks of each class.
    const kept = kv.reduce((sum, { bytesPerToken }) => sum + bytesPerToken * native.kvBlocks * 16, 0)
    expect(made.kvBytes).toBe(kept)
  })

  test("'cuda' is the first GPU", () => {
    const made = planBeside(
      program,
      slabs,
      { device: 'cuda', ...small },
      machine,
      draft({ device: 'cuda', placement: 'shared' }),
    )
    expect(made.draft!.device).toBe('cuda:0')
  })

  test('a share of the memory is for both', () => {
    for (const vramBudget of ['50%', gpu.memoryFreeBytes / 2]) {
      const made = planBeside(program, slabs, { device: 'cuda', vramBudget, ...small }, machine, draft())
      expect(made.vramBudgetBytes + made.draft!.vramBytes).toBeLessThanOrEqual(gpu.memoryFreeBytes / 2)
    }
  })

  test('a draft model of another GPU takes nothing of the budget of this one', () => {
    const vramBudget = 4e9
    const made = planBeside(
      program,
      slabs,
      { device: 'cuda:0', vramBudget, ...small },
      machine,
      draft({ device: 'cuda:1' }),
    )
    expect(made.vramBudgetBytes).toBe(vramBudget)
  })

  test('a draft model that is larger than the budget is what is too large', () => {
    const large = { ...slabs, units: fixture.unitsOf(4, 1e9, 1e9, 1e9) }
    const load = () =>
      planBeside(program, slabs, { device: 'cuda', vramBudget: '2GiB', ...small }, machine, {
        program,
        slabs: large,
        options: { model: 'draft' },
      })
    expect(load).toThrow(
      expect.objectContaining({ code: 'OUT_OF_MEMORY', message: expect.stringMatching(/^the draft model/) }),
    )
  })
})
