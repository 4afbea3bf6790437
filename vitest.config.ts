import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // The addon lives in a process: a crash or a leaked thread must not reach another file's tests.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // Tests leave nothing in the user's cache, and ask nothing of the network.
    env: { MILLRACE_CACHE: 'off', HF_HUB_OFFLINE: '1' },
  },
})
