// npm run build: both halves. In an installed package only the native one can be out of date: dist came with it.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { buildNative, command, ROOT, SetupError } from './build-native.mjs'

await command(() => {
  buildNative()
  if (!existsSync(join(ROOT, 'lib'))) return
  const tsdown = join(ROOT, 'node_modules', 'tsdown', 'dist', 'run.mjs')
  if (!existsSync(tsdown)) throw new SetupError('tsdown is not installed: run `npm install` first.')
  const { status } = spawnSync(process.execPath, [tsdown], { cwd: ROOT, stdio: 'inherit' })
  if (status !== 0) throw new SetupError('tsdown failed; what it printed is above.')
})
