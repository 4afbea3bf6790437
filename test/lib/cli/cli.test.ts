/** The built command, as a user meets it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { load } from '../../../lib/index.ts'
import { build, DIST } from '../../built.ts'
import { MODELS } from '../../models.ts'
import { temporaryFolder } from '../folder.ts'

beforeAll(build)

const demo = join(MODELS, 'demo')
const GREEDY = ', there was a kind girl named Daisy.'

function start(args: string[]): ChildProcess {
  return spawn(process.execPath, [join(DIST, 'cli', 'main.js'), ...args], { stdio: ['pipe', 'pipe', 'pipe'] })
}

async function collect(child: ChildProcess, input = '') {
  let stdout = ''
  let stderr = ''
  child.stdout!.setEncoding('utf8').on('data', (text) => {
    stdout += text
  })
  child.stderr!.setEncoding('utf8').on('data', (text) => {
    stderr += text
  })
  child.stdin!.on('error', () => {}) // a command that reads nothing may be gone already
  child.stdin!.end(input)
  const [code] = await once(child, 'close')
  return { code, stdout, stderr }
}

const run = (args: string[], input?: string) => collect(start(args), input)

describe('generate', () => {
  test('the prompt as an argument, an option, or standard input; stdout has the text alone', async () => {
    const runs = [
      run(['generate', demo, 'Once upon a time', '--max-tokens', '9']),
      run(['generate', demo, '--prompt', 'Once upon a time', '--max-tokens', '9', '--quiet']),
      run(['generate', demo, '--max-tokens', '9', '--placement', 'streamed', '--ring', '1'], 'Once upon a time\n'),
    ]
    for (const { code, stdout } of await Promise.all(runs))
      expect({ code, stdout }).toEqual({ code: 0, stdout: `${GREEDY}\n` })
    expect((await runs[1]!).stderr).toBe('')
    expect((await runs[0]!).stderr).toMatch(/^(loading demo: .*\n)*loaded demo: .* MB in .* s\n$/)
  })

  test('--json prints the result, with --stats the figures', async () => {
    const { stdout, code } = await run([
      'generate',
      demo,
      'Once upon a time',
      '--max-tokens',
      '9',
      '--seed',
      '5',
      '--json',
      '--stats',
    ])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      text: GREEDY,
      finishReason: 'length',
      seed: 5,
      usage: { promptTokens: 5, completionTokens: 9 },
      plan: { device: 'cpu' },
      stats: { steps: 9 },
      memory: { ringBytes: 0 },
    })
  })

  test('--chat, sampling, --stop', async () => {
    const args = ['generate', demo, '--chat', 'Tell me a story about a curious otter and a paper plane.']
    const [a, b] = await Promise.all([
      run([...args, '--stop', '.', '--stop', '!', '--temperature', '0.8', '--top-p', '0.9', '--seed', '1']),
      run([...args, '--stop', '.', '--stop', '!', '--temperature', '0.8', '--top-p', '0.9', '--seed', '1']),
    ])
    expect(a.code).toBe(0)
    expect(a.stdout).toMatch(/^[^.!]+\n$/)
    expect(b.stdout).toBe(a.stdout)
  })

  test('penalties, biases, typical sampling and log-probabilities are those of the library', async () => {
    const flags = ['--temperature', '0.9', '--seed', '3', '--typical-p', '0.8', '--repetition-penalty', '1.3']
    const more = ['--presence-penalty', '0.2', '--frequency-penalty', '0.1', '--logit-bias', '17=2']
    const rest = ['--logit-bias', '18=-Infinity', '--max-tokens', '12', '--logprobs', '--top-logprobs', '2', '--json']
    const { code, stdout } = await run(['generate', demo, 'Once upon a time', ...flags, ...more, ...rest])
    expect(code).toBe(0)
    await using model = await load(demo)
    const expected = await model.generate('Once upon a time', {
      temperature: 0.9,
      seed: 3,
      typicalP: 0.8,
      repetitionPenalty: 1.3,
      presencePenalty: 0.2,
      frequencyPenalty: 0.1,
      logitBias: { 17: 2, 18: Number.NEGATIVE_INFINITY },
      maxTokens: 12,
      logprobs: true,
      topLogprobs: 2,
    }).result
    const { timings: _, ...same } = JSON.parse(JSON.stringify(expected))
    expect(JSON.parse(stdout)).toMatchObject(same)
  })

  test('--truncate cuts a prompt that the context has no room for; without it that is an error', async () => {
    const args = ['generate', demo, 'Once upon a time. '.repeat(20), '--context', '64', '--max-tokens', '8']
    const limits = ['--priority', '2', '--queue-timeout', '60000', '--deadline', '60000', '--json']
    const [cut, whole] = await Promise.all([run([...args, ...limits, '--truncate', 'start']), run(args)])
    expect(JSON.parse(cut.stdout).usage).toMatchObject({ promptTokens: 56, completionTokens: 8 })
    expect(whole).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining('CONTEXT_OVERFLOW') })
  })

  test('--trace writes a file that ends with the model', async () => {
    const folder = await temporaryFolder({})
    const path = join(folder, 'trace.json')
    const { code } = await run([
      'generate',
      demo,
      'Once',
      '--max-tokens',
      '3',
      '--placement',
      'streamed',
      '--trace',
      path,
    ])
    expect(code).toBe(0)
    const names = (JSON.parse(await readFile(path, 'utf8')) as { name: string }[]).map((event) => event.name)
    expect(names).toContain('wait for attention 0')
    const refused = await run(['generate', demo, 'Once', '--trace', join(folder, 'none', 'trace.json')])
    expect(refused.code).toBe(2)
    expect(refused.stderr).toContain('cannot be written')
  })

  test('--stop-token, --ignore-eos and what the KV cache holds', async () => {
    await using model = await load(demo)
    const options = { maxTokens: 9 }
    const { tokens } = await model.generate('Once upon a time', options).result
    const flags = ['generate', demo, 'Once upon a time', '--max-tokens', '9', '--json', '--stats', '--ignore-eos']
    const serve = ['--context', '64', '--kv-tokens', '160', '--batch', '2', '--stop-token', String(tokens[4])]
    const { code, stdout } = await run([...flags, ...serve])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ finishReason: 'stop', plan: { kvTokens: 160, batch: 2 } })
    const one = await run(['plan', demo, '--device', 'cpu', '--context', '64', '--max-sequences', '3', '--json'])
    expect(JSON.parse(one.stdout)).toMatchObject({ kvTokens: 192 })
  })

  test('--deadline ends an answer that takes longer', async () => {
    const long = ['--max-tokens', '2000', '--temperature', '2', '--seed', '1', '--placement', 'streamed']
    const { code, stderr } = await run(['generate', demo, 'Once', ...long, '--logit-bias', '2=-100', '--deadline', '1'])
    expect(code).toBe(1)
    expect(stderr).toContain('DEADLINE_EXCEEDED')
  })

  test('Ctrl-C prints what is there and exits with 130', async () => {
    const child = start([
      'generate',
      demo,
      'Once upon a time',
      '--temperature',
      '3',
      '--max-tokens',
      '1000',
      '--placement',
      'streamed',
      '--threads',
      '1',
    ])
    const done = collect(child)
    await Promise.race([once(child.stdout!, 'data'), done])
    child.kill('SIGINT')
    const { code, stdout, stderr } = await done
    expect(code).toBe(130)
    expect(stdout.length).toBeGreaterThan(0)
    expect(stderr).not.toMatch(/ABORTED|Error/)
    expect(stderr).toMatch(/^millrace: interrupted\n$/m)
  })

  test('a reader that leaves a chat early is none either, and the rest of it is not computed', async () => {
    const child = start(['chat', demo, '--ignore-eos', '--quiet'])
    const closed = once(child, 'close')
    child.stdin!.on('error', () => {})
    child.stdin!.write('Once upon a time\n'.repeat(50))
    await once(child.stdout!, 'data')
    child.stdout!.destroy()
    expect((await closed)[0]).toBe(0)
  })

  test('a stdout that is closed from the start is none', async () => {
    const shell = `"$0" "$1" generate "$2" Once --max-tokens 3 --quiet >&-`
    const args = ['-c', shell, process.execPath, join(DIST, 'cli', 'main.js'), demo]
    const child = spawn('sh', args, { stdio: ['pipe', 'pipe', 'pipe'] })
    expect(await collect(child)).toEqual({ code: 0, stdout: '', stderr: '' })
  })

  test('a reader that leaves early is no failure', async () => {
    const child = start(['generate', demo, 'Once upon a time', '--temperature', '3'])
    const done = once(child, 'close')
    let stderr = ''
    child.stderr!.on('data', (text) => {
      stderr += text
    })
    child.stdin!.end()
    await Promise.race([once(child.stdout!, 'data'), done])
    child.stdout!.destroy()
    expect((await done)[0]).toBe(0)
    expect(stderr).not.toMatch(/EPIPE|Error/)
  })
})

describe('chats of models that think and call', () => {
  /** The demo, whose answers all are thoughts: its prompt begins one that it never ends. */
  const thinking = async () => {
    const file = (name: string) => readFile(join(demo, name))
    const template =
      '{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}{% endfor %}{% if add_generation_prompt and thinking | default(true) %}<think>{% endif %}'
    return temporaryFolder({
      'config.json': await file('config.json'),
      'model.safetensors': await file('model.safetensors'),
      'tokenizer.json': await file('tokenizer.json'),
      'tokenizer_config.json': { bos_token: '<|endoftext|>', eos_token: '<|endoftext|>' },
      'generation_config.json': { do_sample: true, temperature: 1.5 },
      'chat_template.jinja': template,
    })
  }

  test('what they think is shown on demand, and is none of the answer', async () => {
    const folder = await thinking()
    const args = [
      'generate',
      folder,
      '--chat',
      'Once upon a time',
      '--max-tokens',
      '8',
      '--temperature',
      '0',
      '--quiet',
    ]
    const [shown, silent, json] = await Promise.all([
      run([...args, '--reasoning', 'show']),
      run(args),
      run([...args, '--json']),
    ])
    const { reasoning } = JSON.parse(json.stdout)
    expect(reasoning.length).toBeGreaterThan(8)
    expect(shown).toEqual({ code: 0, stdout: '\n', stderr: `${reasoning}\n\n` })
    expect(silent).toEqual({ code: 0, stdout: '\n', stderr: '' })
    const { code, stdout } = await run([...args, '--variable', 'thinking=false'])
    expect(code).toBe(0)
    expect(stdout.length).toBeGreaterThan(8)
  })

  test('--generation-config none leaves out what the checkpoint names', async () => {
    const folder = await thinking()
    const args = ['generate', folder, 'Once upon a time', '--max-tokens', '9', '--seed', '1', '--quiet']
    const [own, none] = await Promise.all([run(args), run([...args, '--generation-config', 'none'])])
    expect(none).toMatchObject({ code: 0, stdout: `${GREEDY}\n` })
    expect(own.stdout).not.toBe(none.stdout)
  })

  test('--tools are shown to the model', async () => {
    const folder = await temporaryFolder({
      'tools.json': [{ type: 'function', function: { name: 'look', parameters: { type: 'object' } } }],
      'wrong.json': [{ type: 'function', function: {} }],
    })
    const chat = ['generate', await thinking(), '--chat', 'a', '--max-tokens', '1', '--json', '--quiet']
    const [without, with_] = await Promise.all([run(chat), run([...chat, '--tools', join(folder, 'tools.json')])])
    const tokensOf = ({ stdout }: { stdout: string }) => JSON.parse(stdout).usage.promptTokens
    expect(tokensOf(with_)).toBeGreaterThan(tokensOf(without) + 10)
    expect(JSON.parse(with_.stdout).toolCalls).toEqual([])
    const refused = await run([...chat, '--tools', join(folder, 'wrong.json')])
    expect(refused.code).toBe(2)
    expect(refused.stderr).toMatch(/--tools .*wrong\.json.*name/)
    const alone = await run(['generate', demo, 'a', '--tools', join(folder, 'tools.json')])
    expect(alone).toMatchObject({ code: 2, stderr: expect.stringContaining('expected --chat with --tools') })
  })
})

test('chat answers every line of a pipe, and remembers', async () => {
  const { code, stdout } = await run(
    ['chat', demo, '--max-tokens', '12'],
    'Tell me a story about a curious otter.\n\nTell me a story about a kite.\n',
  )
  expect(code).toBe(0)
  expect(stdout.trimEnd().split('\n').length).toBeGreaterThanOrEqual(2)
  const [alone] = (
    await run(['chat', demo, '--max-tokens', '12'], 'Tell me a story about a curious otter.\n')
  ).stdout.split('\n')
  expect(stdout.startsWith(alone!)).toBe(true)
})

test('inspect, for people and for programs', async () => {
  const [people, programs] = await Promise.all([run(['inspect', demo]), run(['inspect', demo, '--json'])])
  expect(people.code).toBe(0)
  expect(people.stdout).toMatch(/quantisation +gptq, 4 bits, group 128, symmetric\n/)
  expect(people.stdout).toMatch(/KV cache +4,096 bytes a token\n/)
  expect(JSON.parse(programs.stdout)).toMatchObject({ architecture: 'LlamaForCausalLM', kvBytesPerToken: 4096 })
})

test('a GGUF file in the place of a folder', async () => {
  const file = join(fileURLToPath(new URL('../../goldens/gguf/', import.meta.url)), 'llama-Q3_K_M.gguf')
  const [people, programs, planned, generated] = await Promise.all([
    run(['inspect', file]),
    run(['inspect', file, '--json']),
    run(['plan', file, '--device', 'cpu', '--json']),
    run(['generate', file, 'Once', '--device', 'cpu', '--max-tokens', '3', '--json']),
  ])
  expect(people.stdout).toMatch(/quantisation +gguf Q3_K_M, 4\.11 bits a weight: .*attn_v Q5_K.*ffn_down Q4_K/)
  expect(JSON.parse(programs.stdout)).toMatchObject({ parameters: 1_443_072, files: [{ name: 'llama-Q3_K_M.gguf' }] })
  expect(JSON.parse(planned.stdout)).toMatchObject({ contextLength: 512 })
  expect(generated.code).toBe(0)
})

test('score: windows, files, and the first token', async () => {
  const text = 'Once upon a time, there was a kind girl named Daisy. She lived in a snowy valley.'
  const folder = await temporaryFolder({ 'text.txt': text })
  const [whole, file, windows, noBos] = await Promise.all([
    run(['score', demo, text]),
    run(['score', demo, '--file', join(folder, 'text.txt')]),
    run(['score', demo, text, '--window', '8', '--json']),
    run(['score', demo, '--no-bos', '--json'], text),
  ])
  expect(whole.stdout).toMatch(/^perplexity \d+\.\d{4} over (\d+) tokens\n$/)
  expect(file.stdout).toBe(whole.stdout)
  const tokens = Number(/over (\d+)/.exec(whole.stdout)![1])
  expect(JSON.parse(windows.stdout).tokens).toBe(tokens)
  expect(JSON.parse(noBos.stdout).tokens).toBe(tokens - 1)
})

describe('bench', () => {
  test('decode prints the speed beside the limit measured in the same run', async () => {
    const options = ['--tokens', '6', '--prompt', '8', '--batch', '2', '--runs', '1', '--json']
    const { code, stdout } = await run(['bench', 'decode', demo, ...options])
    expect(code).toBe(0)
    const figures = JSON.parse(stdout)
    for (const name of [
      'decodeTokensPerSecond',
      'wholeTokensPerSecond',
      'prefillTokensPerSecond',
      'decodeMicrosecondsPerLayer',
      'weightBytesPerSecond',
      'readBytesPerSecond',
    ]) {
      expect(figures[name], name).toBeGreaterThan(0)
    }
    expect(figures).toMatchObject({ batch: 2, prompt: 8, tokens: 6, device: 'cpu' })
    expect(figures.share).toBeCloseTo(figures.weightBytesPerSecond / figures.readBytesPerSecond, 6)
  })

  test('takes a shape in place of a folder, by any spelling, and decodes where nothing else is said', async () => {
    const args = ['SmolLM2-135M', '--head', 'q4', '--tokens', '3', '--prompt', '4', '--runs', '1']
    const { code, stdout, stderr } = await run(['bench', ...args, '--placement', 'streamed'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^decode +\d+\.\d tok\/s at batch 1.* us a layer\n/)
    expect(stderr).toContain('SmolLM2-135M (random weights)')
  })

  test('prefill', async () => {
    const args = ['prefill', 'smollm2-135m', '--head', 'q4', '--context', '33', '--runs', '1', '--json']
    const { code, stdout } = await run(['bench', ...args])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ prompt: 32, tokens: 1, decodeTokensPerSecond: 0 })
  })

  test('kernel times an operation at the sizes of a shape, and checks it', async () => {
    const options = ['--shape', 'smollm2-135m', '--rows', '3', '--device', 'cpu', '--repeats', '1', '--verify']
    const { code, stdout } = await run(['bench', 'kernel', '--op', 'gemv_q4', ...options])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^gemv_q4, 3 rows, on cpu; read peak [\d.]+ GB\/s\n/)
    for (const part of ['qkv', 'o', 'gate_up', 'down', 'head'])
      expect(stdout).toMatch(new RegExp(`^${part} .* ok$`, 'm'))
  })
})

describe('help', () => {
  test('commands in groups, each with its options in groups and an example', async () => {
    const { code, stdout } = await run(['--help'])
    expect(code).toBe(0)
    for (const heading of ['Answers:', 'Models:', 'This machine:', 'Figures:']) {
      expect(stdout).toMatch(new RegExp(`^${heading}\n {2}\\w`, 'm'))
    }
    const { stdout: own } = await run(['generate', '--help'])
    for (const heading of ['Options:', 'Placement and memory:', 'Models by name:', 'Sampling and limits:']) {
      expect(own).toMatch(new RegExp(`^${heading}\n {2}-`, 'm'))
    }
    expect(own).toMatch(/^Example:\n {2}millrace generate models\/demo "Once upon a time"/m)
  })

  test('models names a repository of the hub for each shape, and plans as plan does', async () => {
    const [models, plan] = await Promise.all([
      run(['models', '--json', '--device', 'cpu']),
      run(['plan', 'smollm2-135m', '--json', '--device', 'cpu']),
    ])
    const rows = JSON.parse(models.stdout) as { model: string; head: string; repository: string; ramBytes: number }[]
    for (const { repository } of rows) expect(repository).toMatch(/^[\w.-]+\/[\w.-]+(:\w+)?$/)
    const { hostBytes, kvBytes } = JSON.parse(plan.stdout)
    const row = rows.find(({ model, head }) => model === 'smollm2-135m' && head === 'stored')
    expect(row!.ramBytes).toBe(hostBytes + kvBytes)
  })
})

describe('failures', () => {
  test('nothing on standard input is no prompt', async () => {
    for (const input of ['', '\n']) {
      const { code, stderr } = await run(['generate', demo, '--max-tokens', '1'], input)
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining('standard input is empty') })
    }
    expect((await run(['generate', demo, '--prompt', '', '--max-tokens', '1'])).code).toBe(0)
  })

  test('remedies name the flags of the command', async () => {
    const words = 'word '.repeat(200)
    const { stderr } = await run(['generate', demo, words, '--context', '64'])
    expect(stderr).toContain('shorten the prompt, load with a larger --context, or pass --truncate')
  })

  test.each([
    [
      ['generate', '/nowhere', 'x'],
      1,
      /^CHECKPOINT_NOT_FOUND: \/nowhere: expected a folder, found nothing\n {2}pass the path/,
    ],
    [['generate', demo, 'x', '--device', 'cuda'], 1, /^DEVICE_UNAVAILABLE: /],
    [
      ['generate', demo, 'x', '--temperature', '-1'],
      2,
      /INVALID_ARGUMENT: expected a number from 0 to 100 for --temperature but received -1\n {2}see millrace generate --help\n/,
    ],
    [
      ['bench', demo, '--ring', 'lots'],
      2,
      /expected a number of units from 1 to 4096 or a size such as '256MiB' .* for --ring but received 'lots'.*\n {2}see millrace bench --help\n/,
    ],
    [['generate', demo, 'x', '--temperature', 'hot'], 2, /Expected a number/],
    [['generate', demo, 'x', '--logit-bias', '5:1'], 2, /Expected <token id>=<number>/],
    [['generate', demo, 'x', '--logit-bias', '5=1000'], 2, /numbers from -100 to 100/],
    [['generate', demo, 'x', '--truncate', 'end'], 2, /Allowed choices are none, start, middle/],
    [['generate', demo, 'x', '--top-logprobs', '3'], 2, /expected --json with --logprobs and --top-logprobs/],
    [['chat', demo, '--repetition-penalty', '0'], 2, /for --repetition-penalty but received 0/],
    [['generate', demo, 'x', '--chat', 'y'], 2, /expected one of \[prompt\], --prompt and --chat/],
    [['generate', demo, 'x', '--max-token', '5'], 2, /unknown option '--max-token'/],
    [['generate'], 2, /missing required argument 'model'\n {2}see millrace generate --help\n/],
    [['cache', 'lost'], 2, /too many arguments for 'list'.*\n {2}see millrace cache list --help\n/],
    [['bench', 'kernel', '--runz'], 2, /unknown option '--runz'[\s\S]* {2}see millrace bench kernel --help\n/],
    [['plan', demo, '--vram', 'much'], 2, /expected a size such as '24GiB' for --vram but received 'much'\n/],
    [['plan', demo, '--ram', '0'], 2, /for --ram but received '0'\n/],
    [
      ['serve', demo, '--port', '99999'],
      2,
      /expected a port from 0 to 65535 for --port but received 99999\n {2}see millrace serve --help\n/,
    ],
    [['serve', demo, '--cors', 'app.example/'], 2, /expected an origin such as 'https:.* but received "app.example\/"/],
    [['batch', '/', '/tmp/millrace-none', '--model', demo], 2, /the input file \/ is a folder\n/],
    [['generat', demo], 2, /unknown command 'generat'/],
    [['generate', demo, 'x', '--placement', 'moon'], 2, /for --placement but received 'moon'/],
    [['score', demo, '--file', '/nowhere'], 2, /INVALID_ARGUMENT: --file: ENOENT/],
    [['score', demo, ''], 2, /at least two tokens/],
    [['bench', demo, '--tokens', '1'], 2, /an integer of at least 2 for --tokens/],
    [['bench', 'decode', demo, '--prompt', '8', '--context', '9'], 2, /expected one of --prompt and --context/],
    [['bench'], 2, /missing required argument 'model'[\s\S]*Usage: millrace bench .*[\s\S]*prefill[\s\S]*kernel/],
    [['bench', 'decod'], 2, /but received 'decod'.*\n {2}did you mean 'decode'\?/],
    [['bench', 'prefil', 'llama3-8b'], 2, /too many arguments[\s\S]*\(Did you mean bench prefill\?\)/],
    [
      ['bench', 'decode', 'nope'],
      2,
      /a folder or one of smollm2-135m, .*but received 'nope'[\s\S]*bench decode --help/,
    ],
    [['bench', 'stream', demo, '--tokens', '1'], 2, /see millrace bench stream --help/],
    [['bench', 'stream', demo, '--device', 'cpu'], 2, /a GPU, of which it measures the link[\s\S]*bench decode/],
    [
      ['bench', 'kernel', '--op', 'nope'],
      2,
      /expected one of gemv_q4, .*sample.*\n {2}see millrace bench kernel --help/,
    ],
    [['bench', 'kernel', '--n', '512'], 2, /expected --k with --n but received none/],
    [['bench', 'kernel', '--op', 'rms_norm', '--k', '512'], 2, /--k is a size of linears .*rms_norm is none/],
    [
      ['generate', demo, 'x', '--logit-bias', '99999=1'],
      2,
      /a token id from 0 to \d+ for --logit-bias but received 99999/,
    ],
    [['generate', demo, 'x', '--stop-token', '99999'], 2, /a token id from 0 to \d+ for --stop-token/],
    [['generate', demo, 'x', '--trace', '/nowhere/trace.json'], 2, /--trace: the file cannot be written: ENOENT/],
    [['generate', demo, 'x', '--kv-tokens', '64', '--max-sequences', '2'], 2, /one of --kv-tokens and --max-sequences/],
    [['generate', demo, 'x', '--vram-budget', '2G'], 2, /units are B, KB, MB, GB, TB and KiB, MiB, GiB, TiB/],
    [['plan', demo, '--trace', 'x.json'], 2, /unknown option '--trace'/],
    [['probe', '--calibrate', '--device', 'cpu'], 2, /a GPU is what is calibrated/],
    [['bench', 'kernel', '--op', 'gemv_q5'], 2, /expected one of gemv_q4, .*\n {2}did you mean 'gemv_q4'\?/],
    [['bench', 'kernel', '--shape', 'llama4'], 2, /expected one of smollm2-135m, .* for --shape but received 'llama4'/],
    [['bench', 'kernel', '--part', 'knee'], 2, /expected one of qkv, o, gate_up, down, head for --part/],
    [
      ['bench', 'kernel', '--device', 'cpu', '--cubin', '/nowhere'],
      2,
      /the kernel of gemv_q4 could not be read: ENOENT/,
    ],
  ])('%j', async (args, code, message) => {
    const outcome = await run(args)
    expect(outcome).toMatchObject({ code, stdout: '' })
    expect(outcome.stderr.replace(/^loaded .*\n/, '')).toMatch(message)
    expect(outcome.stderr).not.toMatch(/^ {4}at /m)
  })

  test('help and version are successes', async () => {
    const [help, version] = await Promise.all([run(['--help']), run(['--version'])])
    expect(help).toMatchObject({ code: 0, stdout: expect.stringContaining('Exit codes') })
    expect(version).toMatchObject({ code: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) })
  })
})

describe('plan, probe, bench stream', () => {
  test('plan with a draft model: what it takes, and its passes counted', async () => {
    const asked = ['plan', 'llama3-8b', '--gpu', '24GiB, PCIe 4.0 x16, 1008GB/s', '--placement', 'streamed']
    const drafted = [...asked, '--draft', 'tinyllama-1.1b', '--acceptance', '0.8']
    const [json, text] = await Promise.all([run([...drafted, '--json']), run(drafted)])
    const { draft, prediction } = JSON.parse(json.stdout)
    expect(draft.vramBytes).toBeGreaterThan(5e8)
    expect(prediction.drafted.tokensPerSecond).toBeGreaterThan(3 * prediction.single.tokensPerSecond)
    expect(text.stdout).toMatch(/^draft model +cuda:0: .* of VRAM/m)
  })

  test('plan: a table, or JSON; a shape or a folder', async () => {
    const [text, json, wrong, guessed, described] = await Promise.all([
      run(['plan', 'llama3-8b', '--device', 'cpu', '--batch', '8', '--ram-budget', '64GB']),
      run(['plan', demo, '--device', 'cpu', '--json']),
      run(['plan', 'llama9']),
      run(['plan', 'smollm2-135m', '--gpu', '8GiB']),
      run(['plan', 'smollm2-135m', '--gpu', '8GiB, PCIe 3.0 x8, 448GB/s']),
    ])
    expect(guessed.stdout).toContain('--gpu "8GiB, PCIe 4.0 x16, 448GB/s"')
    expect(described.stdout).toMatch(/^calibrated +no: these are guesses$/m)
    expect(text.stdout).toMatch(/^homes +attention 32 resident; feed-forward 32 resident; head resident$/m)
    expect(text.stdout).toMatch(/^batch 8 +[\d.]+ tok\/s; a pass/m)
    expect(JSON.parse(json.stdout)).toMatchObject({ device: 'cpu', prediction: { single: { batch: 1 } } })
    expect(wrong).toMatchObject({ code: 2, stdout: '' })
  })

  test('plan: several models on a described machine', async () => {
    const machine = ['--vram', '12GiB', '--link', '25GB/s', '--dram', '60GB/s', '--cores', '8', '--disk', '5GB/s']
    const [shared, wrong] = await Promise.all([
      run(['plan', 'llama3-8b', 'llama2-7b', ...machine, '--ram', '64GiB', '--kv-tokens', '4096']),
      run(['plan', 'llama3-8b', '--link', '25GB/s']),
    ])
    expect(shared.stdout).toMatch(/^llama2-7b *\nhomes +attention 32 shared; /m)
    expect(shared.stdout).toMatch(/a switch to it takes 1\d\d ms; read from the disk in 1\.1 s$/m)
    expect(shared.stdout).toMatch(/^together +one after the other in an arena of /m)
    expect(wrong).toMatchObject({ code: 2, stdout: '' })
    expect(wrong.stderr).toContain('give --vram too')
  })

  test('probe says what the machine has', async () => {
    const { code, stdout } = await run(['probe'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^CPU +.*: \d+ cores of \d+, kernels \w+$/m)
  })

  test('bench stream: wrong counts are wrong usage', async () => {
    const { code, stderr } = await run(['bench', 'stream', demo, '--tokens', '1'])
    expect(code).toBe(2)
    expect(stderr).toMatch(/integers from 2 to 65536 for --tokens/)
  })
})
