/** Chats with tools and reasoning, the engine's part being played by the test. */
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import {
  type ChatOptions,
  type ChatPart,
  type Generation,
  type GenerationChunk,
  type LoadedTokenizer,
  load,
  loadTokenizer,
  type Model,
} from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'
import type { FakeAddon, FakeModel } from './fake_addon.ts'
import { ADDED, folderOf, QWEN, TOOLS } from './qwen.ts'

const fake = vi.hoisted(() => ({ addon: undefined as unknown as FakeAddon }))
vi.mock('../../../lib/binding.ts', async (original) => {
  const { FakeAddon } = await import('./fake_addon.ts')
  fake.addon = new FakeAddon()
  return { ...(await original<object>()), addon: () => fake.addon }
})

const MESSAGES = [{ role: 'user', content: 'How is the weather?' }]

let model: Model
let native: FakeModel

async function open(folder: string): Promise<void> {
  model = await load(folder)
  native = fake.addon.models.at(-1)!
}
beforeEach(async () => open(await folderOf(QWEN)))
afterEach(async () => {
  const closed = model.close()
  native.finishClose()
  await closed
})

async function ask(options: ChatOptions = {}, messages: Parameters<Model['chat']>[0] = MESSAGES): Promise<Generation> {
  const before = native.submitted.length
  const generation = model.chat(messages, options)
  generation.result.catch(() => {})
  await vi.waitFor(() => expect(native.submitted).toHaveLength(before + 1))
  return generation
}

const promptText = async () => {
  const specials = new Map(ADDED.map((text) => [model.tokenizer.idOf(text)!, text]))
  const { request } = native.submitted.at(-1)!
  let text = ''
  let run: number[] = []
  for (const token of [...request.tokens, -1]) {
    if (token !== -1 && !specials.has(token)) run.push(token)
    else {
      text += model.tokenizer.decode(run) + (specials.get(token) ?? '')
      run = []
    }
  }
  return text
}

const answerOf = async (text: string) => [...(await model.tokenizer.encode(text, { specialTokens: false }))]

/** The answer in pieces, each of which is read before the next comes. */
async function answered(generation: Generation, text: string, cut: (left: number) => number, finish = 'stop') {
  const tokens = await answerOf(text)
  const chunks: GenerationChunk[] = []
  const reading = (async () => {
    for await (const chunk of generation) chunks.push(chunk)
  })()
  for (let at = 0; at < tokens.length; ) {
    const count = cut(tokens.length - at)
    native.answer(tokens.slice(at, at + count))
    at += count
    await new Promise((resolve) => setImmediate(resolve))
  }
  native.answer([], { finish: finish as 'stop' })
  await reading
  return { chunks, result: await generation.result, tokens }
}

/** Pieces of one part put together, ids left out. */
function joined(parts: ChatPart[]): object[] {
  const all: { type: string; index?: number; text?: string; id?: string }[] = []
  for (const { ...part } of parts) {
    const last = all.at(-1)
    if ('text' in part && last?.type === part.type && last.index === (part as { index?: number }).index)
      last.text += part.text
    else all.push(part)
  }
  return all.map(({ id, ...part }) => part)
}

/** Numbers that look random, the same each time. */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const ARGUMENTS = '{"place": "Ōsaka", "days": [1, {"a": "}"}]}'
const CALL = `<tool_call>\n{"name": "get_weather", "arguments": ${ARGUMENTS}}\n</tool_call>`

describe('an answer that calls tools', () => {
  const WHOLE = `<think>\nI must look.\n</think>\n\nLet me look.\n${CALL}\n${CALL.replace('Ōsaka', 'Rome')}`

  test.each([1, 2, 3, 4])('is read the same however it is cut (%i)', async (seed) => {
    const next = random(seed)
    const { chunks, result, tokens } = await answered(
      await ask({ tools: TOOLS }),
      WHOLE,
      () => 1 + Math.floor(next() * 7),
    )
    expect(joined(chunks.flatMap(({ parts }) => parts!))).toEqual([
      { type: 'reasoning', text: 'I must look.' },
      { type: 'text', text: 'Let me look.' },
      { type: 'call', index: 0, name: 'get_weather' },
      { type: 'arguments', index: 0, text: ARGUMENTS },
      { type: 'call', index: 1, name: 'get_weather' },
      { type: 'arguments', index: 1, text: ARGUMENTS.replace('Ōsaka', 'Rome') },
      { type: 'finish', reason: 'tool-calls' },
    ])
    expect(chunks.map(({ text }) => text).join('')).toBe('Let me look.')
    expect(result).toMatchObject({
      text: 'Let me look.',
      reasoning: 'I must look.',
      finishReason: 'tool-calls',
      tokens,
      toolCalls: [
        { type: 'function', function: { name: 'get_weather', arguments: ARGUMENTS } },
        { type: 'function', function: { name: 'get_weather', arguments: ARGUMENTS.replace('Ōsaka', 'Rome') } },
      ],
    })
    const [a, b] = result.toolCalls!
    expect(a!.id).toMatch(/^\w+$/)
    expect(a!.id).not.toBe(b!.id)
  })

  test('its calls and results make the next turn', async () => {
    const first = await answered(await ask({ tools: TOOLS }), CALL, (left) => left)
    const { text, toolCalls } = first.result
    const [call] = toolCalls!
    await ask({ tools: TOOLS }, [
      ...MESSAGES,
      { role: 'assistant', content: text, tool_calls: toolCalls! },
      { role: 'tool', tool_call_id: call!.id, content: '<|im_end|>21 degrees' },
    ])
    const prompt = await promptText()
    expect(prompt).toContain(CALL)
    expect(prompt).toContain('<tool_response>\n<|im_end|>21 degrees\n</tool_response>')
    const end = model.tokenizer.idOf('<|im_end|>')
    // Of system, user, assistant and result: none of the tool's own text.
    expect([...native.submitted.at(-1)!.request.tokens].filter((token) => token === end)).toHaveLength(4)
  })

  test('without parallelToolCalls it ends behind the first call', async () => {
    const generation = await ask({ tools: TOOLS, parallelToolCalls: false })
    const { result, chunks } = await answered(generation, CALL + CALL, (left) => left, 'abort')
    expect(result.toolCalls).toHaveLength(1)
    expect(result.toolCalls![0]!.function.arguments).toBe(ARGUMENTS)
    expect(result.finishReason).toBe('tool-calls')
    expect(native.cancelled).toHaveLength(1)
    expect(chunks.at(-1)!.parts!.at(-1)).toEqual({ type: 'finish', reason: 'tool-calls' })
  })

  test('one that is cut short says so, and keeps what there is', async () => {
    const { result } = await answered(await ask({ tools: TOOLS }), CALL.slice(0, 60), () => 3, 'length')
    expect(result.finishReason).toBe('length')
    expect(ARGUMENTS.startsWith(result.toolCalls![0]!.function.arguments)).toBe(true)
  })

  test('text alone', async () => {
    const { result } = await answered(await ask({ tools: TOOLS }), 'It is warm.', () => 2)
    expect(result).toMatchObject({ text: 'It is warm.', toolCalls: [], finishReason: 'stop' })
    expect(result).not.toHaveProperty('reasoning')
  })
})

describe('what the model is shown', () => {
  test('tools, variables, and none of them with toolChoice none', async () => {
    await ask({ tools: TOOLS, variables: { enable_thinking: false } })
    expect(await promptText()).toMatch(/get_weather.*<think>\n\n<\/think>\n\n$/s)
    const none = await ask({ tools: TOOLS, toolChoice: 'none' })
    expect(await promptText()).not.toContain('get_weather')
    const { result } = await answered(none, CALL, () => 1)
    expect(result).not.toHaveProperty('toolCalls')
    expect(result.finishReason).toBe('stop')
  })
  test('the final message, which is to be continued', async () => {
    await ask({ continueFinalMessage: true }, [...MESSAGES, { role: 'assistant', content: 'It is' }])
    expect(await promptText()).toMatch(/<\|im_start\|>assistant\nIt is$/)
  })
  test('applyChatTemplate gives its text', async () => {
    const text = await model.tokenizer.applyChatTemplate(MESSAGES, { tools: TOOLS })
    await ask({ tools: TOOLS })
    expect(await promptText()).toBe(text)
    expect(await model.tokenizer.applyChatTemplate(MESSAGES, { addGenerationPrompt: false })).toBe(
      '<|im_start|>user\nHow is the weather?<|im_end|>\n',
    )
    const tokenizer: LoadedTokenizer = await loadTokenizer(model.path)
    expect(await tokenizer.applyChatTemplate(MESSAGES, { tools: TOOLS })).toBe(text)
    await expect(
      tokenizer.applyChatTemplate(MESSAGES, { addGenerationPrompt: true, continueFinalMessage: true }),
    ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(tokenizer.applyChatTemplate([{ role: 'usr', content: 'a' }])).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
    tokenizer.close()
  })
})

describe('sampling that a request leaves to the checkpoint', () => {
  const FILE = { do_sample: true, temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 7, repetition_penalty: 1.05 }

  test.each([
    [
      'is that of its generation_config.json',
      FILE,
      {},
      {},
      { temperature: 0.6, topK: 20, topP: 0.95, repetitionPenalty: 1.05 },
    ],
    ['but a request’s own rules', FILE, {}, { temperature: 0, topK: 5 }, { temperature: 0, topK: 5, topP: 0.95 }],
    ['and none of it on demand', FILE, { generationConfig: 'none' as const }, {}, { temperature: 0, topK: 0, topP: 1 }],
    ['do_sample: false is greedy', { ...FILE, do_sample: false, top_k: -1 }, {}, {}, { temperature: 0, topK: 0 }],
    ['do_sample alone is temperature 1', { do_sample: true }, {}, {}, { temperature: 1, topK: 0 }],
    ['a file that says nothing is greedy', {}, {}, {}, { temperature: 0, topP: 1 }],
  ])('%s', async (_, file, loadOptions, options, wanted) => {
    native.finishClose()
    await model.close()
    const warnings: string[] = []
    const logger = { debug() {}, info() {}, error() {}, warn: (_: object, message: string) => warnings.push(message) }
    model = await load(await folderOf(QWEN, file), { ...loadOptions, logger })
    native = fake.addon.models.at(-1)!
    model.generate([1], options)
    expect(native.submitted.at(-1)!.request).toMatchObject({ ...wanted, minP: 0 })
    native.answer([], { finish: 'stop' })
    const isRead = 'min_p' in file && !('generationConfig' in loadOptions)
    expect(warnings.some((warning) => /'min_p' is 7/.test(warning))).toBe(isRead)
  })
})

test('reasoning that began in the prompt', async () => {
  native.finishClose()
  await model.close()
  await open(await folderOf(QWEN.replace(/\{% if enable_thinking[\s\S]*$/, '<think>\n{% endif %}')))
  const { result, chunks } = await answered(await ask(), 'Hm.\n</think>\n\nYes.', () => 1)
  expect(result).toMatchObject({ reasoning: 'Hm.', text: 'Yes.' })
  expect(chunks.map(({ text }) => text).join('')).toBe('Yes.')
})

test('plain chats have text alone, tokens and spaces as they come', async () => {
  native.finishClose()
  await model.close()
  await open(join(MODELS, 'demo'))
  const { chunks, result } = await answered(await ask(), ' Once \n\n<tool_call> ', () => 1)
  expect(chunks.every((chunk) => !('parts' in chunk))).toBe(true)
  expect(result.text).toBe(' Once \n\n<tool_call> ')
  expect(result).not.toHaveProperty('toolCalls')
})

test.each([
  [{ toolChoice: 'required' }, /there are no tools/],
  [{ toolChoice: { name: 'get_weather' } }, /there are no tools/],
  [{ toolChoice: 'must' }, /'required' or \{ name \}/],
  [{ tools: [{ name: 'x' }] }, /tools\[0\]\.type/],
  [{ tools: [{ type: 'function', function: {} }] }, /tools\[0\]\.function\.name/],
  [{ variables: [] }, /variables/],
  [{ addGenerationPrompt: true }, /unknown option 'addGenerationPrompt'/],
])('options that are refused (%#)', (options, message) => {
  expect(() => model.chat(MESSAGES, options as ChatOptions)).toThrowError(
    expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(message) }),
  )
})
