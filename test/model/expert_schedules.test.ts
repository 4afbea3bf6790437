/** Experts on demand on the twin by schedules drawn at random; of many: MILLRACE_SCHEDULES=1000. */
import { afterAll, describe } from 'vitest'
import { removeFolders } from '../goldens/folders.ts'
import { testSchedules } from './expert_schedules.ts'

afterAll(removeFolders)

describe('experts on demand on the CPU', () => testSchedules('cpu', 10))
