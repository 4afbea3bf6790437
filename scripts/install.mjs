// The package's install script: the addon of build/ or prebuilds/ if one fits and loads, else a build from source.
import { createRequire } from 'node:module'
import { buildNative, command, ROOT, say } from './build-native.mjs'

const require = createRequire(import.meta.url)

function usable() {
  if (process.env.npm_config_build_from_source) return false
  try {
    require('node-gyp-build')(ROOT)
    return true
  } catch {
    return false
  }
}

await command(() => {
  if (usable()) return
  say('building the native addon from source')
  buildNative()
})
