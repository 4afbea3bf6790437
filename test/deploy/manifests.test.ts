/** deploy/'s manifests against published schemas, and against the command that they start. */
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import type { Command } from 'commander'
import { describe, expect, test } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import { serveCommand } from '../../lib/cli/serve.ts'
import type { Terminal } from '../../lib/cli/terminal.ts'
import { ROOT } from '../built.ts'
import { findSpec } from '../lib/server/openai_schema.ts'

interface Manifest {
  apiVersion: string
  kind: string
  // biome-ignore lint/suspicious/noExplicitAny: what the schemas describe
  spec: any
}

const folder = join(ROOT, 'deploy', 'kubernetes')
const manifests = readdirSync(folder).flatMap((file) =>
  parseAllDocuments(readFileSync(join(folder, file), 'utf8')).map((document) => document.toJS() as Manifest),
)
const find = (kind: string) => manifests.find((manifest) => manifest.kind === kind)!

/** The package's CommonJS: its modules import each other without endings. */
const models = createRequire(import.meta.url)
const KNOWN: Record<string, string> = {
  Deployment: 'kubernetes-models/apps/v1/Deployment',
  Service: 'kubernetes-models/v1/Service',
  Secret: 'kubernetes-models/v1/Secret',
}

describe('each manifest is one of the schema', () => {
  test.each(Object.entries(KNOWN))('%s', (kind, module) => {
    const Model = models(module)[kind]
    const valid = new Model(find(kind))
    expect(() => valid.validate()).not.toThrow()
    const wrong = new Model({ ...find(kind), metadata: { name: 7 } })
    expect(() => wrong.validate()).toThrow()
  })

  test('InferencePool', ({ skip }) => {
    const path = findSpec('inferencepool-crd.yaml')
    if (path === undefined) return skip()
    const { spec } = parse(readFileSync(path, 'utf8'))
    const version = spec.versions.find(({ name }: { name: string }) => name === 'v1')
    const validate = new Ajv({ strict: false, validateFormats: false }).compile(version.schema.openAPIV3Schema)
    expect(find('InferencePool').apiVersion).toBe(`${spec.group}/v1`)
    expect(validate(find('InferencePool')) ? [] : validate.errors).toEqual([])
    const { selector: _, ...rest } = find('InferencePool').spec
    expect(validate({ ...find('InferencePool'), spec: rest })).toBe(false)
  })

  test('PodMonitor, whose schema is not here, names what is there', () => {
    expect(find('PodMonitor').spec.podMetricsEndpoints[0]).toMatchObject({ port: 'http', path: '/metrics' })
  })
})

describe('they belong together', () => {
  const { spec } = find('Deployment').spec.template
  const [container] = spec.containers

  test('labels and ports', () => {
    const { labels } = find('Deployment').spec.template.metadata
    for (const kind of ['Service', 'InferencePool', 'PodMonitor', 'Deployment']) {
      const selector = find(kind).spec.selector
      expect(labels).toMatchObject(selector.matchLabels ?? selector)
    }
    const port = container.ports[0].containerPort
    expect(container.args).toContain(`--port=${port}`)
    expect(find('InferencePool').spec.targetPorts[0].number).toBe(port)
  })

  test('the command has the flags, and time to drain', () => {
    const [name, ...args] = container.args as string[]
    const command: Command = serveCommand({} as Terminal)
    expect(name).toBe(command.name())
    const flags = args.filter((word) => word.startsWith('--')).map((word) => word.split('=')[0])
    for (const flag of flags) expect(command.options.map(({ long }) => long)).toContain(flag)
    const drain = Number(args.find((word) => word.startsWith('--drain-ms='))!.split('=')[1])
    expect(spec.terminationGracePeriodSeconds * 1000).toBeGreaterThan(drain)
  })
})
