/** A template -> the format of its model's answers: chats with known words are rendered, and the literals around them read. */
import { MillraceError } from '../../errors.ts'
import { commonEnd, commonStart, difference } from './common.ts'
import type { ChatFormat, NamedCalls, ObjectCalls, TaggedCalls } from './format.ts'
import type { RenderChatOptions } from './render.ts'
import type { Message, Tool } from './types.ts'

const USER = 'zq_user'

const TEXT = 'zq_text'

const REASON = 'zq_reason'

const NAMES = ['zq_alpha', 'zq_beta'] as const

const KEYS = ['zq_key_one', 'zq_key_two'] as const

const VALUES = ['zq_value_one', 'zq_value_two'] as const

const IDS = ['zqidentone'.slice(0, 9), 'zqidenttwo'.slice(0, 9)] as const

const NUMBER = 271_828

const MARKUP = 'zq_markup <a> & b'

const parameters = {
  type: 'object',
  properties: Object.fromEntries(KEYS.map((key) => [key, { type: 'string', description: 'A word' }])),
  required: [],
}

const TOOLS: Tool[] = NAMES.map((name) => ({ type: 'function', function: { name, description: 'A tool', parameters } }))

/** Characters of a turn: of real templates hundreds. What is looked for in one takes time that grows faster than it. */
const MAX_SHOWN = 16_384

/** Braces that are tried as the ends of an object. */
const MAX_TRIES = 64

export type RenderText = (messages: Message[], options: RenderChatOptions) => string

const call = (index: 0 | 1, args: Record<string, unknown>) => ({
  id: IDS[index],
  type: 'function' as const,
  function: { name: NAMES[index], arguments: args },
})

const TEXTS = { [KEYS[0]]: VALUES[0], [KEYS[1]]: VALUES[1] }

export function deriveFormat(render: RenderText, template: string): ChatFormat {
  const prompt = after(render, [], {}) ?? ''
  const turn = (message: Omit<Message, 'role'>) =>
    after(render, [{ role: 'assistant', ...message }], { addGenerationPrompt: false })
  const plain = turn({ content: TEXT })
  const one = turn({ content: '', tool_calls: [call(0, TEXTS)] })
  const reasoning = findReasoning(turn, plain, prompt, template)
  const lead = plain?.includes(TEXT) ? plain.slice(commonStart(prompt, plain).length, plain.indexOf(TEXT)) : ''
  const own = withoutReasoning(lead, reasoning)
  const textOpen = own.trim()
  if (reasoning && textOpen !== '' && reasoning.close.endsWith(textOpen)) {
    reasoning.close = reasoning.close.slice(0, -textOpen.length).trim()
  }
  const format: ChatFormat = {
    reasoning,
    textOpen,
    textClose: '',
    leadingSpace: /^\s/.test(own),
    drop: [],
    calls: undefined,
  }
  if (!one?.includes(NAMES[0]) || !one.includes(VALUES[0])) return format
  const core = findCall(one, turn)
  if (!core) return format
  const ending = plain?.split(TEXT).at(-1) ?? ''
  const end = commonEnd(one.slice(core.end), ending)
  format.textClose = ending.slice(0, ending.length - end.length).trim()
  if (/[<[]/.test(end)) format.drop = [end.trim()]
  let open = withoutReasoning(one.slice(commonStart(prompt, one).length, core.start), reasoning)
  for (const literal of [format.textOpen, format.textClose]) {
    if (literal !== '') open = open.slice(open.lastIndexOf(literal) + (open.includes(literal) ? literal.length : 1))
  }
  // An empty text may stand behind the calls, as a turn of its own.
  const [close] = ending.trim() === '' ? [one.slice(core.end)] : one.slice(core.end).split(ending.trim())
  const two = turn({ content: '', tool_calls: [call(0, TEXTS), call(1, TEXTS)] })
  format.calls = { ...core.calls, ...around(open, close!.slice(0, lengthWithout(close!, end)), betweenCalls(two)) }
  return format
}

const lengthWithout = (text: string, end: string) =>
  end !== '' && text.endsWith(end) ? text.length - end.length : text.length

/** What follows the user's message; undefined where the template refuses the chat. */
function after(render: RenderText, messages: Message[], options: RenderChatOptions): string | undefined {
  try {
    const text = render([{ role: 'user', content: USER }, ...messages], { tools: TOOLS, ...options })
    const shown = text.slice(text.lastIndexOf(USER) + USER.length)
    return shown.length > MAX_SHOWN ? undefined : shown
  } catch (error) {
    if (MillraceError.isInstance(error)) return undefined
    throw error
  }
}

type Turn = (message: Omit<Message, 'role'>) => string | undefined

function findReasoning(
  turn: Turn,
  plain: string | undefined,
  prompt: string,
  template: string,
): ChatFormat['reasoning'] {
  const beside = turn({ content: TEXT, reasoning: REASON })
  // Some templates show reasoning before calls alone.
  const called = turn({ content: '', reasoning: REASON, tool_calls: [call(0, TEXTS)] })
  const shown = isReasoned(beside) ? beside : called
  if (isReasoned(shown)) {
    const start = shown.indexOf(REASON)
    const before = shown.slice(0, start)
    const own = before.slice(commonStart(before, plain ?? prompt).length).trim()
    const behind = shown.slice(start + REASON.length)
    const close =
      shown === beside
        ? closeOf(behind.slice(0, behind.indexOf(TEXT)), called)
        : (/^\s*<[^<>]*>/.exec(behind)?.[0] ?? '')
    const open = own === '' ? lastTag(before) : own
    if (open !== '' && close.trim() !== '') return { open, close: close.trim() }
  }
  const opens = template.indexOf('<think>')
  const isKnown = (opens !== -1 && template.indexOf('</think>', opens) !== -1) || prompt.trimEnd().endsWith('<think>')
  return isKnown ? { open: '<think>', close: '</think>' } : undefined
}

/** Of what stands between reasoning and text, what stands before a call as well: the rest opens the text. */
function closeOf(gap: string, called: string | undefined): string {
  if (!isReasoned(called)) return gap
  const shared = commonStart(gap, called.slice(called.indexOf(REASON) + REASON.length))
  // A tag that has only begun is another one in each.
  const whole = shared === gap ? gap : shared.replace(/<[^<>]*$/, '')
  return whole.trim() === '' ? gap : whole
}

const isReasoned = (text: string | undefined): text is string =>
  text?.includes(REASON) === true && [TEXT, NAMES[0]].some((word) => text.indexOf(word) > text.indexOf(REASON))

/** The last tag of a text, with a word that is written between two: <think>, <|open|>think<|sep|>. */
const lastTag = (text: string) => /(?:<[^<>]*>\w+)?<[^<>]*>\s*$/.exec(text)?.[0].trim() ?? ''

function withoutReasoning(text: string, reasoning: ChatFormat['reasoning']): string {
  const at = reasoning ? text.lastIndexOf(reasoning.close) : -1
  return at === -1 ? text : text.slice(at + reasoning!.close.length)
}

type Shape = Omit<ObjectCalls, keyof Around> | Omit<NamedCalls, keyof Around> | Omit<TaggedCalls, keyof Around>

interface Around {
  sectionOpen: string
  sectionClose: string
  callOpen: string
  callClose: string
  separator: string
}

interface Core {
  calls: Shape
  start: number
  end: number
}

/** What is between the first call and the second; undefined where a template knows one alone. */
function betweenCalls(two: string | undefined): string | undefined {
  const second = two?.includes(NAMES[1]) ? findCall(two, undefined, 1) : undefined
  const first = second ? findCall(two!.slice(0, second.start), undefined) : undefined
  return first && two!.slice(first.end, second!.start)
}

function around(open: string, close: string, between: string | undefined): Around {
  if (between === undefined)
    return { sectionOpen: '', callOpen: open.trim(), callClose: close.trim(), sectionClose: '', separator: '' }
  const callOpen = commonEnd(open, between)
  const callClose = commonStart(close, between.slice(0, between.length - callOpen.length))
  return {
    sectionOpen: open.slice(0, open.length - callOpen.length).trim(),
    callOpen: callOpen.trim(),
    callClose: callClose.trim(),
    separator: between.slice(callClose.length, between.length - callOpen.length).trim(),
    sectionClose: close.slice(callClose.length).trim(),
  }
}

/** The call of a name in a text: its shape, and where it is. `turn` renders others of the same. */
function findCall(text: string, turn: Turn | undefined, index: 0 | 1 = 0): Core | undefined {
  const key = text.indexOf(KEYS[0], text.indexOf(NAMES[index]))
  const name = text.lastIndexOf(NAMES[index], key)
  if (name === -1 || key === -1) return findObject(text, index)
  return findObject(text, index) ?? findNamed(text, name, key, index) ?? findTagged(text, turn, name, key)
}

function findObject(text: string, index: 0 | 1): Core | undefined {
  const name = text.indexOf(NAMES[index])
  let tries = 0
  for (
    let start = text.lastIndexOf('{', name);
    start !== -1 && tries < MAX_TRIES;
    start = start === 0 ? -1 : text.lastIndexOf('{', start - 1)
  ) {
    tries++
    const found = objectAt(text, start)
    if (!found) continue
    const keys = Object.entries(found.value)
    const isArguments = (value: unknown) => typeof value === 'object' && value !== null && KEYS[0] in value
    const argumentsKey = keys.find(([, value]) => isArguments(value))?.[0]
    if (argumentsKey === undefined) continue
    if (argumentsKey === NAMES[index])
      return {
        calls: { shape: 'object', nameKey: undefined, argumentsKey: '', idKey: undefined },
        start,
        end: found.end,
      }
    const nameKey = keys.find(([, value]) => value === NAMES[index])?.[0]
    const idKey = keys.find(([, value]) => value === IDS[index])?.[0]
    if (nameKey !== undefined)
      return { calls: { shape: 'object', nameKey, argumentsKey, idKey }, start, end: found.end }
  }
  return undefined
}

/** The JSON object that begins at a brace. */
function objectAt(text: string, start: number): { value: Record<string, unknown>; end: number } | undefined {
  let end = text.indexOf('}', start)
  for (let tries = 0; end !== -1 && tries < MAX_TRIES; end = text.indexOf('}', end + 1)) {
    tries++
    try {
      return { value: JSON.parse(text.slice(start, end + 1)), end: end + 1 }
    } catch {
      // A brace within; the next one may end it.
    }
  }
  return undefined
}

function findNamed(text: string, name: number, key: number, index: 0 | 1): Core | undefined {
  const start = text.lastIndexOf('{', key)
  const found = start > name ? objectAt(text, start) : undefined
  if (!found || !(KEYS[0] in found.value)) return undefined
  const between = text.slice(name + NAMES[index].length, start)
  const [nameClose, idClose] = between.split(IDS[index])
  const calls = {
    shape: 'name+json',
    nameClose: nameClose!.trim() || nameClose!,
    idClose: idClose?.trim(),
    syntax: 'json',
  } as const
  return { calls, start: name, end: found.end }
}

/** A tag for each argument: name M key E value S key E value X. */
function findTagged(text: string, turn: Turn | undefined, name: number, key: number): Core | undefined {
  const [first, second] = VALUES.map((value) => text.indexOf(value, key)) as [number, number]
  const next = text.indexOf(KEYS[1], first)
  if (first === -1 || second === -1 || next === -1 || next > second) return undefined
  const beforeKey = text.slice(name + NAMES.find((one) => text.startsWith(one, name))!.length, key)
  const split = text.slice(first + VALUES[0].length, next)
  const keyOpen = commonEnd(beforeKey, split)
  const valueClose = split.slice(0, split.length - keyOpen.length)
  const nameClose = beforeKey.slice(0, beforeKey.length - keyOpen.length)
  const between = text.slice(key + KEYS[0].length, first)
  const calls = {
    shape: 'tagged',
    nameClose: nameClose.trim() || nameClose,
    keyOpen: keyOpen.trim(),
    valueClose,
    ...(turn ? valueStyle(between, turn) : { keyClose: between, type: undefined, textWrap: undefined }),
  } as const
  return { calls, start: name, end: second + VALUES[1].length + valueClose.length }
}

/** What stands between key and value, and what of it tells the value's type. */
function valueStyle(keyClose: string, turn: Turn): Pick<TaggedCalls, 'keyClose' | 'type' | 'textWrap'> {
  const lead = (value: unknown) => {
    const text = turn({ content: '', tool_calls: [call(0, { [KEYS[0]]: value })] }) ?? ''
    const start = text.indexOf(KEYS[0], text.indexOf(NAMES[0])) + KEYS[0].length
    const end = text.indexOf(String(value), start)
    return end === -1 ? keyClose : text.slice(start, end)
  }
  const forNumbers = lead(NUMBER)
  const forMarkup = lead(MARKUP)
  const wrap =
    forMarkup.startsWith(keyClose) && forMarkup.length > keyClose.length ? forMarkup.slice(keyClose.length) : undefined
  const textWrap = wrap === undefined ? undefined : { open: wrap, close: wrap.startsWith('<![CDATA[') ? ']]>' : wrap }
  if (forNumbers === keyClose) return { keyClose, type: undefined, textWrap }
  const [head, forTexts, tail] = difference(keyClose, forNumbers)
  const other = forNumbers.slice(head.length, forNumbers.length - tail.length)
  const isType = other === 'number' || other === 'integer'
  return { keyClose: head, type: { text: forTexts, close: tail, ...(isType ? {} : { other }) }, textWrap }
}
