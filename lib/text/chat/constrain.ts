/** Chats under a constraint: what an answer has around what was asked for, in the literals that also read it. */

import { unsupported } from '../../constraint/problems.ts'
import type { Json, JsonObject } from '../../constraint/schema/nodes.ts'
import type { Body, Part, Piece } from '../../constraint/task.ts'
import type { Pieces } from '../tokenizer/pieces.ts'
import type { CallFormat, ChatFormat, NamedCalls, ObjectCalls, TaggedCalls } from './format.ts'
import type { Tool } from './types.ts'

/** White space between literals that models write; readers take any. */
const SOME_SPACE: Part = { space: 2 }
const REASONED_SPACE: Part = { space: 4 }

export interface CallableTools {
  tools: readonly Tool[]
  parallel: boolean
}

/** An answer's text under a constraint, behind its reasoning. */
export function constrainedText(format: ChatFormat, promptEnd: string, body: Body, pieces: Pieces): Part[] {
  const writer = new Writer(pieces)
  const { textOpen, textClose, leadingSpace } = format
  const isOpen = textOpen === '' || promptEnd.trimEnd().endsWith(textOpen)
  return [
    ...writer.reasoning(format, promptEnd),
    ...(isOpen ? [] : [writer.literal(textOpen)]),
    ...(leadingSpace ? [SOME_SPACE] : []),
    { body },
    ...(textClose === '' ? [] : [{ choice: [[writer.literal(textClose)], []] }]),
  ]
}

/** An answer that calls tools and says nothing else. Throws CONSTRAINT_UNSUPPORTED. */
export function constrainedCalls(
  format: ChatFormat,
  promptEnd: string,
  { tools, parallel }: CallableTools,
  pieces: Pieces,
): Part[] {
  const { calls } = format
  if (!calls) {
    throw unsupported(
      "a forced tool call, where the model's chat template has no form for calls,",
      "take a model whose chat template has tools, or toolChoice: 'auto'",
    )
  }
  const writer = new Writer(pieces)
  const { sectionOpen, callOpen } = calls
  const isBegun = callOpen !== '' && promptEnd.trimEnd().endsWith(callOpen)
  const { whole, opened } = writer.calls(calls, { tools, parallel })
  if (isBegun) return [SOME_SPACE, ...opened]
  return [...writer.reasoning(format, promptEnd), SOME_SPACE, ...writer.literals(sectionOpen), ...whole]
}

/**
 * An answer that may call tools: anything, but what stands behind the opening of a call is one, of these tools. undefined
 * where nothing tells a call's beginning from a text. Throws CONSTRAINT_UNSUPPORTED.
 */
export function offeredCalls(
  format: ChatFormat,
  promptEnd: string,
  { tools, parallel }: CallableTools,
  pieces: Pieces,
): Part[] | undefined {
  const { calls } = format
  const opening = calls?.sectionOpen || calls?.callOpen || ''
  // A prompt that has begun a call wants one.
  const isBegun = calls?.callOpen !== '' && promptEnd.trimEnd().endsWith(calls?.callOpen ?? '')
  if (!calls || calls.atStart || opening === '' || isBegun) return undefined
  const writer = new Writer(pieces)
  // Readers take any white space within an opening.
  const sought = opening.split(/\s+/).flatMap((word, index) => [...(index === 0 ? [] : ['']), ...writer.pieces(word)])
  const section = writer.calls(calls, { tools, parallel })
  const call: Part[] = [{ until: sought }, SOME_SPACE, ...(calls.sectionOpen ? section.whole : section.opened)]
  return [...writer.reasoning(format, promptEnd), { repeat: call }, { without: sought }]
}

class Writer {
  readonly #specials: readonly (readonly [text: string, token: number])[]

  constructor(pieces: Pieces) {
    this.#specials = [...pieces.specials]
      .filter(([, text]) => text !== '')
      .map(([token, text]) => [text, token] as const)
      .sort(([a], [b]) => b.length - a.length)
  }

  /** Special tokens in it are themselves, and not their texts. */
  literal(text: string): { literal: Piece[] } {
    return { literal: this.pieces(text) }
  }

  pieces(text: string): Piece[] {
    for (const [special, token] of this.#specials) {
      const at = text.indexOf(special)
      if (at === -1) continue
      return [...this.pieces(text.slice(0, at)), { token }, ...this.pieces(text.slice(at + special.length))]
    }
    return text === '' ? [] : [text]
  }

  /** A literal, and white space behind it; nothing of none. */
  literals(text: string): Part[] {
    return text === '' ? [] : [this.literal(text), SOME_SPACE]
  }

  /** What comes first: the rest of a reasoning that the prompt has begun, or one that the model may begin. */
  reasoning({ reasoning }: ChatFormat, promptEnd: string): Part[] {
    if (!reasoning) return []
    const tail = promptEnd.trimEnd()
    const rest: Part[] = [{ until: this.pieces(reasoning.close) }, REASONED_SPACE]
    if (tail.endsWith(reasoning.open)) return rest
    if (tail.endsWith(reasoning.close)) return []
    return [{ choice: [[SOME_SPACE, this.literal(reasoning.open), ...rest], []] }]
  }

  /** What a section has behind its opening; and the same behind the opening of its first call. */
  calls(calls: CallFormat, { tools, parallel }: CallableTools): { whole: Part[]; opened: Part[] } {
    const { sectionClose, callOpen, callClose, separator } = calls
    const opened: Part[] = [{ choice: tools.map((tool) => this.call(calls, tool)) }, ...this.literals(callClose)]
    const whole = [...this.literals(callOpen), ...opened]
    const more: Part[] = parallel && tools.length > 0 ? [{ repeat: [...this.literals(separator), ...whole] }] : []
    const rest = [...more, ...this.literals(sectionClose)]
    return { whole: [...whole, ...rest], opened: [...opened, ...rest] }
  }

  call(calls: CallFormat, tool: Tool): Part[] {
    switch (calls.shape) {
      case 'object':
        return this.#objectCall(calls, tool)
      case 'name+json':
        return this.#namedCall(calls, tool)
      case 'tagged':
        return this.#taggedCall(calls, tool)
    }
  }

  #arguments({ function: { parameters } }: Tool): Part {
    // What is no object of its own accord must be one.
    const schema: Json = { type: 'object', ...(parameters as JsonObject | undefined) }
    return { body: { type: 'schema', schema: closed(schema), flexible: false } }
  }

  #objectCall({ nameKey, argumentsKey, idKey }: ObjectCalls, tool: Tool): Part[] {
    const { name } = tool.function
    const space: Part = { space: 1 }
    const key = (text: string): Part[] => [{ literal: [`${JSON.stringify(text)}:`] }, space]
    const begin: Part[] = [{ literal: ['{'] }, space]
    const end: Part[] = [space, { literal: ['}'] }, SOME_SPACE]
    if (nameKey === undefined) return [...begin, ...key(name), this.#arguments(tool), ...end]
    const comma: Part[] = [{ literal: [','] }, space]
    const id: Part[] =
      idKey === undefined
        ? []
        : [...comma, ...key(idKey), { body: { type: 'regex', source: '"[a-zA-Z0-9]{9}"', flags: '' } }]
    return [
      ...begin,
      ...key(nameKey),
      { literal: [JSON.stringify(name)] },
      ...comma,
      ...key(argumentsKey),
      this.#arguments(tool),
      ...id,
      ...end,
    ]
  }

  #namedCall({ nameClose, idClose, syntax, written }: NamedCalls, tool: Tool): Part[] {
    if (syntax !== 'json')
      throw unsupported('a forced tool call, where the model writes arguments in a form of its own,')
    const { name } = tool.function
    const id = (source: string): Part => ({ body: { type: 'regex', source, flags: '' } })
    const named: Part[] =
      written?.isId === true ? [this.literal(`functions.${name}:`), id('\\d{1,3}')] : [this.literal(name)]
    return [
      ...named,
      this.literal(nameClose),
      ...(idClose === undefined ? [] : [id('[a-zA-Z0-9_-]{1,64}'), this.literal(idClose)]),
      ...(nameClose.trim() === '' ? [] : [SOME_SPACE]),
      this.#arguments(tool),
      SOME_SPACE,
    ]
  }

  #taggedCall(calls: TaggedCalls, tool: Tool): Part[] {
    const { nameClose, nameEnd, keyOpen, keyClose, type, valueClose, textWrap } = calls
    const { name, parameters = {} } = tool.function
    const { properties = {}, required = [] } = parameters as {
      properties?: Record<string, JsonObject | boolean>
      required?: string[]
    }
    const passed: Part[] =
      nameEnd === undefined ? [] : [{ body: { type: 'regex', source: '\\d{1,3}', flags: '' } }, this.literal(nameEnd)]
    const value = (schema: JsonObject | boolean): Part[] => {
      const isText = typeof schema === 'object' && schema.type === 'string'
      const tag: Part[] = type ? [{ literal: [isText ? type.text : typeName(schema)] }, this.literal(type.close)] : []
      if (!isText) {
        const body: Body = {
          type: 'schema',
          schema: withDefinitions(schema, parameters as JsonObject),
          flexible: false,
        }
        return [...tag, { body }, { space: 1 }, this.literal(valueClose)]
      }
      const open = textWrap ? [this.literal(textWrap.open)] : []
      const close = textWrap ? textWrap.close + valueClose : valueClose
      const texts = schema.enum as Json[] | undefined
      if (texts?.every((text) => typeof text === 'string')) {
        return [
          ...tag,
          ...open,
          { body: { type: 'choice', texts: texts as string[] } },
          { space: 1 },
          this.literal(close),
        ]
      }
      return [...tag, ...open, { until: this.pieces(close) }]
    }
    const members = Object.entries(properties).flatMap(([key, schema]): Part[] => {
      const own: Part[] = [
        this.literal(keyOpen),
        { literal: [key] },
        this.literal(keyClose),
        ...value(schema),
        SOME_SPACE,
      ]
      return required.includes(key) ? own : [{ choice: [own, []] }]
    })
    return [{ literal: [name] }, this.literal(nameClose), ...passed, SOME_SPACE, ...members]
  }
}

/** Arguments have no names beside those of the schema, unless it has a say in that. */
function closed(schema: JsonObject): JsonObject {
  const says = ['additionalProperties', 'patternProperties', 'allOf', 'anyOf', 'oneOf', '$ref', 'if', 'propertyNames']
  return says.some((keyword) => keyword in schema) ? schema : { ...schema, additionalProperties: false }
}

/** A part of a schema, with what it may refer to. */
function withDefinitions(schema: JsonObject | boolean, whole: JsonObject): Json {
  if (typeof schema === 'boolean') return schema
  const { $defs, definitions } = whole
  return { ...($defs ? { $defs } : {}), ...(definitions ? { definitions } : {}), ...schema }
}

const typeName = (schema: JsonObject | boolean) =>
  typeof schema === 'object' && typeof schema.type === 'string' ? schema.type : 'object'
