/** Experts on demand on a GPU by schedules drawn at random. Needs a device; elsewhere it says why it does not run. */
import { afterAll, describe } from 'vitest'
import { probe } from '../../lib/index.ts'
import { removeFolders } from '../goldens/folders.ts'
import { testSchedules } from '../model/expert_schedules.ts'

const { gpus, gpuReason } = await probe()
if (gpus.length === 0) console.warn(`test/gpu is skipped: ${gpuReason}`)

afterAll(removeFolders)

describe.skipIf(gpus.length === 0)('experts on demand on a GPU', () => testSchedules('cuda', 40))
