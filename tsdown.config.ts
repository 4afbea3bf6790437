import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { build, defineConfig, type InlineConfig } from 'tsdown'

/** What the server is made of: put into one file, so that installing the package brings none of it. */
const bundled = ['fastify', '@fastify/cors', 'pino', 'prom-client']

/** The licences of what is bundled, beside it. */
const licences = (fileName: string) => ({
  name: 'licences',
  generateBundle(
    this: { emitFile(file: { type: 'asset'; fileName: string; source: string }): unknown },
    _: unknown,
    bundle: Record<string, { modules?: object }>,
  ) {
    const paths = Object.values(bundle).flatMap(({ modules = {} }) => Object.keys(modules))
    const folders = paths.flatMap((path) => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path)?.[0] ?? [])
    const texts = [...new Set(folders)].sort().map((folder) => {
      const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
      const file = existsSync(folder) && readdirSync(folder).find((one) => /^licen[cs]e/i.test(one))
      const text = file ? readFileSync(join(folder, file), 'utf8').trim() : ''
      return `${name} ${version} (${license})\n\n${text}\n`
    })
    if (texts.length === 0) return
    this.emitFile({ type: 'asset', fileName, source: texts.join(`\n${'-'.repeat(80)}\n\n`) })
  },
})

/** One file, with all that it imports. */
const bundle = (name: string, source: string, options: InlineConfig = {}) =>
  build({
    config: false,
    entry: { [name]: source },
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    outExtensions: () => ({ js: '.js' }),
    dts: false,
    clean: false,
    logLevel: 'warn',
    deps: { alwaysBundle: [/./] },
    plugins: [licences(`${name}.LICENSES.txt`)],
    outputOptions: { codeSplitting: false },
    ...options,
  })

export default defineConfig({
  entry: ['lib/index.ts', 'lib/ai/index.ts', 'lib/lab/index.ts', 'lib/server/index.ts', 'lib/cli/main.ts'],
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
      // A thread imports for itself what its process has long had: of some two hundred files that takes most of the time
      // in which a small model is loaded.
      await bundle('tokenizer_thread', 'lib/text/tokenizer/worker.ts')
      await bundle('constraint_thread', 'lib/constraint/worker.ts')
      await bundle('server/vendor', 'lib/server/vendor.ts', {
        // Its CommonJS has locals that the bundler confuses with its modules.
        alias: { '@opentelemetry/api': join(import.meta.dirname, 'node_modules/@opentelemetry/api/dist/index.mjs') },
        minify: true,
      })
    },
  },
})
