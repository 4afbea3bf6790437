/** Batches: each line answered once, whatever ends the run in between. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFile, copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { load } from '../../../lib/index.ts'
import { runBatch } from '../../../lib/server/batch.ts'
import { build, DIST } from '../../built.ts'
import { temporaryFolder } from '../folder.ts'
import { DEMO } from './server.ts'

const models = { models: { demo: DEMO }, load: { device: 'cpu', threads: 1, batch: 4 } }
const line = (id: string, body: object, url = '/v1/chat/completions') =>
  JSON.stringify({ custom_id: id, method: 'POST', url, body })
const chat = (index: number) => ({
  model: 'demo',
  messages: [{ role: 'user', content: `Tell me story number ${index}.` }],
  max_tokens: 8,
})
const parsed = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((one) => JSON.parse(one))

async function files(lines: string[]) {
  const folder = await temporaryFolder({ 'in.jsonl': `${lines.join('\n')}\n` })
  return { input: join(folder, 'in.jsonl'), output: join(folder, 'out.jsonl') }
}

describe('runBatch', () => {
  test('answers every line as the server would; failures are answers, too', async () => {
    const { input, output } = await files([
      line('a', chat(1)),
      line('b', { model: 'demo', prompt: 'Once', max_tokens: 3 }, '/v1/completions'),
      '',
      line('c', { ...chat(2), model: 'none' }),
      line('d', { ...chat(3), temperature: 'hot' }),
    ])
    const progress = await runBatch(models, { input, output })
    expect(progress).toMatchObject({ done: 4, total: 4, failed: 2, answered: 4, completionTokens: 11 })
    const answers = parsed(await readFile(output, 'utf8'))
    const by = Object.fromEntries(answers.map((answer) => [answer.custom_id, answer.response]))
    await using model = await load(DEMO, { device: 'cpu', threads: 1 })
    const expected = await model.chat(chat(1).messages, { maxTokens: 8 }).result
    expect(by.a.status_code).toBe(200)
    expect(by.a.body.choices[0].message.content).toBe(expected.text)
    expect(by.b.body.choices[0].text).toBe((await model.generate('Once', { maxTokens: 3 }).result).text)
    expect([by.c.status_code, by.d.status_code]).toEqual([404, 400])
    expect(by.d.body.error.param).toBe('temperature')
  })

  test('goes on behind a line that was torn, and asks nothing again', async () => {
    const { input, output } = await files([0, 1, 2, 3, 4].map((index) => line(`id-${index}`, chat(index))))
    const before = ['id-3', 'id-0'].map((custom_id) =>
      JSON.stringify({ custom_id, response: { status_code: 200 }, kept: 1 }),
    )
    await writeFile(output, `${before.join('\n')}\n{"custom_id": "id-1", "respon`)
    const progress = await runBatch(models, { input, output })
    expect(progress).toMatchObject({ done: 5, total: 5, answered: 3 })
    const answers = parsed(await readFile(output, 'utf8'))
    expect(answers.map(({ custom_id }) => custom_id).sort()).toEqual([0, 1, 2, 3, 4].map((index) => `id-${index}`))
    expect(answers.filter(({ kept }) => kept)).toHaveLength(2)
    // Nothing is left: no model is loaded.
    const nothing = { models: { demo: '/nowhere' } }
    expect(await runBatch(nothing, { input, output })).toMatchObject({ done: 5, answered: 0 })
  })

  test('an abort leaves whole lines alone', async () => {
    const { input, output } = await files(Array.from({ length: 40 }, (_, index) => line(`id-${index}`, chat(index))))
    const controller = new AbortController()
    const run = runBatch(models, {
      input,
      output,
      signal: controller.signal,
      onProgress: ({ answered }) => {
        if (answered === 5) controller.abort()
      },
    })
    await expect(run).rejects.toThrow()
    const text = await readFile(output, 'utf8')
    expect(text.endsWith('\n')).toBe(true)
    const first = parsed(text).length
    expect(first).toBeLessThan(40)
    expect(parsed(text).every(({ response }) => response.status_code === 200)).toBe(true)
    const { answered } = await runBatch(models, { input, output })
    expect(first + answered).toBe(40)
  })

  test.each([
    ['not JSON', ['{'], 'line 1'],
    ['no id', [JSON.stringify({ url: '/v1/completions', body: {} })], 'custom_id'],
    ['an id twice', [line('a', {}), line('a', {})], 'twice'],
    ['another url', [line('a', {}, '/v1/images')], 'url'],
    ['a stream', [line('a', { stream: true })], 'stream'],
    ['no body', [JSON.stringify({ custom_id: 'a', url: '/v1/completions' })], 'body'],
  ])('%s is refused before anything is loaded', async (_, lines, told) => {
    const { input, output } = await files(lines)
    const error = await runBatch({ models: { demo: '/nowhere' } }, { input, output }).catch((caught) => caught)
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toContain(told)
  })

  test('an input that is not there is refused by its path, and no output is begun', async () => {
    const { input, output } = await files([])
    const error = await runBatch(models, { input: `${input}.no`, output }).catch((caught) => caught)
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(error.message).toBe(`the input file ${input}.no cannot be opened: ENOENT`)
    await expect(readFile(output)).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('an output that answers something else is left alone', async () => {
    const { input, output } = await files([line('a', chat(1))])
    await appendFile(output, 'a diary\n')
    await expect(runBatch(models, { input, output })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await readFile(output, 'utf8')).toBe('a diary\n')
  })

  test('requests are no answers: an input as the output, or a copy of it, is left alone', async () => {
    const { input, output } = await files([line('a', chat(1))])
    await expect(runBatch(models, { input, output: input })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: `${input} is the input and the output`,
    })
    await copyFile(input, output)
    await expect(runBatch(models, { input, output })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await readFile(output)).toEqual(await readFile(input))
  })
})

describe('the commands', () => {
  beforeAll(build)

  function start(args: string[]) {
    const child = spawn(process.execPath, [join(DIST, 'cli', 'main.js'), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const told = { stderr: '' }
    child.stderr.setEncoding('utf8').on('data', (text) => {
      told.stderr += text
    })
    return { child, told }
  }

  test('an output that takes no more is told so', async () => {
    const { input, output } = await files([0, 1, 2, 3, 4, 5].map((index) => line(`id-${index}`, chat(index))))
    const args = [join(DIST, 'cli', 'main.js'), 'batch', input, output, '--model', DEMO, '--at-once', '1']
    const child = spawn('sh', ['-c', 'trap "" XFSZ; ulimit -f 1; exec "$0" "$@"', process.execPath, ...args])
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text
    })
    const [code] = await once(child, 'close')
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^WRITE_FAILED: the output file .*EFBIG/m),
    })
    expect(stderr).not.toMatch(/^ {4}at /m)
  })

  test('batch, killed and run again, loses and doubles no line', async () => {
    const { input, output } = await files(Array.from({ length: 60 }, (_, index) => line(`id-${index}`, chat(index))))
    const args = ['batch', input, output, '--model', DEMO, '--device', 'cpu', '--threads', '1', '--at-once', '4']
    const first = start(args)
    await expect
      .poll(async () => (await readFile(output, 'utf8').catch(() => '')).split('\n').length, {
        timeout: 150_000,
        interval: 5,
      })
      .toBeGreaterThan(5)
    first.child.kill('SIGKILL')
    await once(first.child, 'close')
    const second = start(args)
    const [code] = await once(second.child, 'close')
    expect({ code, told: second.told.stderr }).toMatchObject({
      code: 0,
      told: expect.stringContaining('60 of 60 answered, 0 failed'),
    })
    const ids = parsed(await readFile(output, 'utf8')).map(({ custom_id }) => custom_id)
    expect(ids).toHaveLength(60)
    expect(new Set(ids).size).toBe(60)
  }, 400_000)

  test('serve says where it listens, takes a config file, ends at SIGTERM', async () => {
    const folder = await temporaryFolder({
      'config.json': { models: { configured: { path: DEMO, contextLength: 256 } }, apiKey: 'k', load: { threads: 1 } },
    })
    const flags = ['--config', join(folder, 'config.json'), '--port', '0', '--device', 'cpu', '--log-level', 'warn']
    const { child, told } = start(['serve', `named=${DEMO}`, ...flags])
    await expect
      .poll(() => told.stderr, { timeout: 150_000 })
      .toMatch(/^millrace: listening on http:\/\/127\.0\.0\.1:\d+$/m)
    const url = /http:\S+/.exec(told.stderr)![0]
    const list = await (await fetch(`${url}/v1/models`, { headers: { 'x-api-key': 'k' } })).json()
    const models = (list as { data: { id: string; max_model_len: number }[] }).data
    expect(models.map(({ id, max_model_len }) => [id, max_model_len])).toEqual([
      ['configured', 256],
      ['named', 1024],
    ])
    expect((await fetch(`${url}/v1/models`)).status).toBe(401)
    child.kill('SIGTERM')
    const [code] = await once(child, 'close')
    expect(code).toBe(143)
  }, 400_000)

  test.each([
    [['serve'], 'no model is named'],
    [['serve', DEMO, DEMO], 'two models are named demo'],
    [['serve', DEMO, '--config', '/nowhere.json'], '--config'],
    [['serve', DEMO, '--port', '99999'], 'port'],
    [['batch', '/nowhere', '/tmp/out.jsonl', '--model', DEMO], 'nowhere'],
    [['batch', 'a', 'b'], 'no model'],
  ])('%j is wrong usage', async (args, named) => {
    const { child, told } = start(args)
    const [code] = await once(child, 'close')
    expect({ code, told: told.stderr }).toMatchObject({ code: 2, told: expect.stringContaining(named) })
  })
})
