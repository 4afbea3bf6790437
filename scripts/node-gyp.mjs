#!/usr/bin/env node
// Stands in for node-gyp where prebuildify asks for it: the one native build, portable, into the folder that prebuildify
// takes it from. No headers are downloaded and no Python is needed.
import { join } from 'node:path'
import { buildNative, command, ROOT } from './build-native.mjs'

await command(() =>
  buildNative({
    tree: join(ROOT, '.cmake', 'Portable'),
    defines: {
      MILLRACE_PORTABLE: 'ON',
      MILLRACE_TESTS: 'OFF',
      MILLRACE_OUTPUT: join(process.cwd(), 'build', 'Release'),
    },
  }),
)
