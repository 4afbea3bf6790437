#!/usr/bin/env node
// Stands in for node-gyp where prebuildify asks for it: the native build, linked for older systems, in the folder that
// prebuildify takes it from. No headers are downloaded and no Python is needed.
//   MILLRACE_TREE  the tree it is built in
import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { buildNative, command, TREE } from './build-native.mjs'

await command(() => {
  const tree = process.env.MILLRACE_TREE ?? TREE
  buildNative({ tree, target: 'millrace_portable' })
  const folder = join(process.cwd(), 'build', 'Release')
  mkdirSync(folder, { recursive: true })
  copyFileSync(join(tree, 'portable', 'millrace.node'), join(folder, 'millrace.node'))
})
