import { join } from 'node:path'
import { build, defineConfig } from 'tsdown'

/** What the server is made of: put into one file, so that installing the package brings none of it. */
const bundled = ['fastify', '@fastify/cors', 'pino', 'prom-client']

export default defineConfig({
  entry: [
    'lib/index.ts',
    'lib/ai/index.ts',
    'lib/lab/index.ts',
    'lib/server/index.ts',
    'lib/cli/main.ts',
    'lib/text/tokenizer/worker.ts',
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
  deps: { neverBundle: bundled },
  hooks: {
    'build:done': async () => {
      await build({
        config: false,
        entry: { 'server/vendor': 'lib/server/vendor.ts' },
        format: 'esm',
        platform: 'node',
        target: 'node20.19',
        outExtensions: () => ({ js: '.js' }),
        dts: false,
        clean: false,
        logLevel: 'warn',
        deps: { alwaysBundle: [/./] },
        // Its CommonJS has locals that the bundler confuses with its modules.
        alias: { '@opentelemetry/api': join(import.meta.dirname, 'node_modules/@opentelemetry/api/dist/index.mjs') },
        minify: true,
        outputOptions: { codeSplitting: false },
      })
    },
  },
})
