/** Chats under a constraint: what an answer has around what was asked for, in the literals that also read it. */

import { unsupported } from '../../constraint/problems.ts'
import type { Json, JsonObject } from '../../constraint/schema/nodes.ts'
import type { Body, Part, Piece } from '../../constraint/task.ts'
import type { Pieces } from '../tokenizer/pieces.ts'
import type { CallFormat, ChatFormat, NamedCalls, ObjectCalls, TaggedCalls } from './format.ts'
import { argumentsOf, typesOf } from './schema_types.ts'
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

  /** Arguments in the order of their schema. */
  #taggedCall(calls: TaggedCalls, tool: Tool): Part[] {
    const { nameClose, nameEnd, nameAgain, keyOpen, keyClose, valueClose } = calls
    const { name } = tool.function
    const parameters = (tool.function.parameters ?? {}) as JsonObject
    const again: Part = nameAgain ? { literal: [name] } : { body: { type: 'regex', source: '\\d{1,3}', flags: '' } }
    const passed: Part[] = nameEnd === undefined ? [] : [again, this.literal(nameEnd)]
    const { properties, required, rest } = argumentsOf(parameters)
    const member = (key: Part, schema: Json): Part[] => [
      this.literal(keyOpen),
      key,
      this.literal(keyClose),
      { choice: this.#taggedValues(calls, schema, parameters) },
      this.literal(valueClose),
      SOME_SPACE,
    ]
    const members = [...properties].flatMap(([key, schema]): Part[] => {
      const own = member({ literal: [key] }, schema)
      return required.has(key) ? own : [{ choice: [own, []] }]
    })
    const others: Part[] =
      rest === undefined || rest === false ? [] : [{ repeat: member(otherName([...properties.keys()]), rest) }]
    return [{ literal: [name] }, this.literal(nameClose), ...passed, SOME_SPACE, ...members, ...others]
  }

  /** Ways to write a value: as a text, and as JSON where it may be anything else. */
  #taggedValues({ type, valueClose, textWrap }: TaggedCalls, schema: Json, parameters: JsonObject): Part[][] {
    const types = typesOf(schema, parameters)
    const whole = within(parameters, schema)
    const isText = types.has('string')
    const others = [...types].filter((one) => one !== 'string')
    const names = [...new Set(others.map((one) => (one === 'integer' ? 'number' : one)))]
    const out: Part[][] = []
    if (isText) {
      const close = valueClose.trim() || valueClose
      // No text has a token of its own in it.
      const isPlain = this.pieces(close).every((piece) => typeof piece === 'string')
      out.push([
        ...(type ? [{ literal: [type.text] }, this.literal(type.close)] : []),
        ...(textWrap ? [this.literal(textWrap.open)] : []),
        {
          body: {
            type: 'raw',
            schema: whole,
            without: [...(isPlain ? [close] : []), ...(textWrap ? [textWrap.close] : [])],
            // What would be read as something else.
            unlike: type || textWrap ? [] : others.map((one) => READ_AS[one]),
          },
        },
        ...(textWrap ? [this.literal(textWrap.close)] : []),
      ])
    }
    if (others.length > 0) {
      const json: Json = isText ? { allOf: [whole, { not: { type: 'string' } }] } : whole
      for (const name of type === undefined ? [''] : type.other === undefined ? names : [type.other]) {
        const own: Json = type && type.other === undefined ? { allOf: [json, { type: name }] } : json
        out.push([
          ...(type ? [{ literal: [name] }, this.literal(type.close)] : []),
          { body: { type: 'schema', schema: own, flexible: false } },
          { space: 1 },
        ])
      }
    }
    return out
  }
}

/** Texts that readers take for other values. */
const READ_AS = {
  null: '\\s*(null|None)\\s*',
  boolean: '\\s*([tT]rue|[fF]alse)\\s*',
  integer: '\\s*-?\\d[\\d.eE+-]*\\s*',
  number: '\\s*-?\\d[\\d.eE+-]*\\s*',
  array: '\\s*\\[[\\s\\S]*',
  object: '\\s*\\{[\\s\\S]*',
} as const

/** Arguments have no names beside those of the schema, unless it has a say in that. */
function closed(schema: JsonObject): JsonObject {
  const says = ['additionalProperties', 'patternProperties', 'allOf', 'anyOf', 'oneOf', '$ref', 'if', 'propertyNames']
  return says.some((keyword) => keyword in schema) ? schema : { ...schema, additionalProperties: false }
}

const DOCUMENT = 'urn:tool'

/** A part of a schema; where it refers to others, within the whole. */
function within(whole: JsonObject, part: Json): Json {
  if (!JSON.stringify(part).includes('"$ref"')) return part
  const $defs = { ...(whole.$defs as JsonObject | undefined), [DOCUMENT]: part }
  return { $defs: { [DOCUMENT]: { ...whole, $id: DOCUMENT, $defs } }, $ref: `${DOCUMENT}#/$defs/${DOCUMENT}` }
}

/** Of an argument that the schema does not name. */
const otherName = (names: string[]): Part => ({
  body: {
    type: 'raw',
    schema: { type: 'string', pattern: '^[\\w.-]{1,64}$', not: { enum: names } },
    without: [],
    unlike: [],
  },
})
