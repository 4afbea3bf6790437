/** Formats that cannot be read from their templates, by words that stand in those alone. */
import type { CallFormat, ChatFormat } from './format.ts'

interface Override {
  name: string
  /** The template is of this kind. */
  fits: (template: string) => boolean
  format: (derived: ChatFormat) => ChatFormat
}

const NOTHING = { sectionOpen: '', sectionClose: '', callOpen: '', callClose: '', separator: '' }

const withCalls = (calls: CallFormat) => (derived: ChatFormat) => ({ ...derived, calls })

export const OVERRIDES: readonly Override[] = [
  {
    // The template keeps ids in a list that it changes, which templates may not do.
    name: 'Kimi K2',
    fits: (template) => template.includes('<|tool_call_argument_begin|>'),
    format: (derived) => ({
      ...derived,
      textClose: '',
      calls: {
        ...NOTHING,
        shape: 'name+json',
        sectionOpen: '<|tool_calls_section_begin|>',
        callOpen: '<|tool_call_begin|>',
        nameClose: '<|tool_call_argument_begin|>',
        idClose: undefined,
        syntax: 'json',
        // functions.get_weather:0 is the id too.
        written: { name: /(?<=^functions\.|^(?!functions\.)).*?(?=:\d+$|$)/s, isId: true },
        callClose: '<|tool_call_end|>',
        sectionClose: '<|tool_calls_section_end|>',
      },
    }),
  },
  {
    // Every tag ends as all others do, and calls are counted.
    name: 'Kimi K3',
    fits: (template) => template.includes('<|open|>') && template.includes('<|close|>'),
    format: () => ({
      reasoning: { open: '<|open|>think<|sep|>', close: '<|close|>think<|sep|>' },
      textOpen: '<|open|>response<|sep|>',
      textClose: '<|close|>response<|sep|>',
      leadingSpace: false,
      drop: ['<|close|>message<|sep|>', '<|end_of_msg|>'],
      calls: {
        shape: 'tagged',
        sectionOpen: '<|open|>tools<|sep|>',
        callOpen: '<|open|>call tool="',
        nameClose: '" index="',
        nameEnd: '"<|sep|>',
        keyOpen: '<|open|>argument key="',
        keyClose: '" type="',
        type: { close: '"<|sep|>', text: 'string' },
        valueClose: '<|close|>argument<|sep|>',
        textWrap: undefined,
        callClose: '<|close|>call<|sep|>',
        separator: '',
        sectionClose: '<|close|>tools<|sep|>',
      },
    }),
  },
  {
    name: 'LFM2',
    fits: (template) => /<\|tool_(call|list)_start\|>/.test(template),
    format: withCalls({
      ...NOTHING,
      shape: 'name+json',
      sectionOpen: '<|tool_call_start|>[',
      nameClose: '(',
      idClose: undefined,
      syntax: 'python',
      sectionClose: '<|tool_call_end|>',
    }),
  },
  {
    name: 'Gemma 4',
    fits: (template) => template.includes('<|tool_call>call:'),
    format: (derived) => ({
      ...derived,
      reasoning: { open: '<|channel>thought', close: '<channel|>' },
      textClose: '',
      drop: ['<|tool_response>'],
      calls: {
        ...NOTHING,
        shape: 'name+json',
        callOpen: '<|tool_call>call:',
        nameClose: '{',
        idClose: undefined,
        syntax: 'gemma',
        callClose: '<tool_call|>',
        sectionClose: '<|tool_response>',
      },
    }),
  },
  {
    // The prompt holds the first '>>>' already, and 'all' is the user.
    name: 'functionary 3.2',
    fits: (template) => template.includes('>>>all'),
    format: (derived) => ({
      ...derived,
      textOpen: '',
      calls: {
        ...NOTHING,
        shape: 'name+json',
        callOpen: '>>>',
        nameClose: '\n',
        idClose: undefined,
        syntax: 'json',
        textName: 'all',
      },
    }),
  },
  {
    // Each call is a message of its own, whose header names the tool too.
    name: 'Muse Glimmer',
    fits: (template) => template.includes('<atem:invoke'),
    format: () => ({
      reasoning: { open: 'to=self<|message|>', close: '<|eom|>' },
      textOpen: 'to=user<|message|>',
      textClose: '<|eom|>',
      leadingSpace: false,
      drop: ['<|start|>assistant'],
      calls: {
        ...NOTHING,
        shape: 'tagged',
        atStart: true,
        callOpen: 'to=',
        nameClose: '<|message|><atem:function_calls>\n<atem:invoke name="',
        nameEnd: '">',
        nameAgain: true,
        keyOpen: '<atem:parameter name="',
        keyClose: '">',
        type: undefined,
        textWrap: undefined,
        valueClose: '</atem:parameter>',
        callClose: '</atem:invoke>\n</atem:function_calls>',
        separator: '<|eom|><|start|>assistant',
      },
    }),
  },
  {
    // gpt-oss: a message's header has its channel and, of calls, the name: before the channel or behind it.
    name: 'harmony',
    fits: (template) => template.includes('<|channel|>') && template.includes('to=functions.'),
    format: () => ({
      reasoning: { open: '<|channel|>analysis<|message|>', close: '<|end|>' },
      textOpen: '<|channel|>final<|message|>',
      textClose: '<|end|>',
      leadingSpace: false,
      drop: ['<|start|>assistant', '<|channel|>commentary<|message|>', '<|channel|>commentary'],
      calls: {
        ...NOTHING,
        shape: 'name+json',
        atStart: true,
        callOpen: 'to=functions.',
        nameClose: '<|message|>',
        idClose: undefined,
        syntax: 'json',
        written: { name: /^[^\s<]*/, isId: false },
        callClose: '<|call|>',
      },
    }),
  },
  {
    // The template shows no calls of its own.
    name: 'Granite 3.3',
    fits: (template) => template.includes('<|tool_call|>') && template.includes('<|start_of_role|>'),
    format: withCalls({
      shape: 'object',
      nameKey: 'name',
      argumentsKey: 'arguments',
      idKey: undefined,
      sectionOpen: '<|tool_call|>[',
      sectionClose: ']',
      callOpen: '',
      callClose: '',
      separator: ',',
    }),
  },
]

/** What is known of a template, above what was derived from it. */
export function applyOverride(template: string, derived: ChatFormat): ChatFormat {
  return OVERRIDES.find(({ fits }) => fits(template))?.format(derived) ?? derived
}
