import { defineConfig } from 'tsdown'

export default defineConfig({
  entry: [
    'lib/index.ts',
    'lib/lab/index.ts',
    'lib/cli/main.ts',
    'lib/text/tokenizer/worker.ts',
    'lib/constraint/worker.ts',
  ],
  // One file a module, as in lib/: the package's root is found from a module's place, and stack traces stay readable.
  unbundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  outExtensions: () => ({ js: '.js', dts: '.d.ts' }),
  dts: true,
  sourcemap: false,
  clean: true,
})
