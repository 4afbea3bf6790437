import { existsSync } from 'node:fs'
import { relative } from 'node:path'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** Files of a minute and more, most of it other processes': of a fresh clone nothing else says that they are long. */
const LONG = [
  'test/docs/bench.test.ts',
  'test/docs/commands.test.ts',
  'test/lib/cli/cli.test.ts',
  'test/lib/cli/output.test.ts',
  'test/reference/random.test.ts',
  'test/model/gguf.test.ts',
  'test/docs/snippets.test.ts',
]

/** Those first, so that no worker is left with one while the others have none; the rest as vitest has it. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const at = LONG.indexOf(relative(import.meta.dirname, moduleId))
      return at < 0 ? LONG.length : at
    }
    return (await super.sort(files)).sort((one, other) => place(one) - place(other))
  }
}

/** Functions of files and values: what they import is imported once a worker. Not those that replace a module. */
const PURE = ['test/lib/{checkpoint,constraint,options,plan,text}/**/!(calibration|thread).test.ts']
/** Where no driver is, all of them are skipped. */
const GPU = ['test/gpu/**/*.test.ts']

export default defineConfig({
  test: {
    projects: [
      { extends: true, test: { name: 'pure', include: PURE, isolate: false } },
      {
        extends: true,
        test: { name: 'gpu', include: GPU, isolate: ['/dev/nvidiactl', '/dev/dxg'].some((path) => existsSync(path)) },
      },
      // The addon lives in a process: a crash or a leaked thread must not reach another file's tests.
      { extends: true, test: { name: 'whole', include: ['test/**/*.test.ts'], exclude: [...PURE, ...GPU] } },
    ],
    pool: 'forks',
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // Tests leave nothing in the user's cache, and ask nothing of the network.
    env: { MILLRACE_CACHE: 'off', HF_HUB_OFFLINE: '1' },
  },
})
