/** Chats as OpenAI's API writes them, with what templates know beyond that. */

/** A call of a tool in an answer; a message's `tool_calls` take it as it is. */
export interface GeneratedToolCall {
  id: string
  type: 'function'
  /** `arguments` as the model wrote them: JSON, unless it made a mistake or was cut short. */
  function: { name: string; arguments: string }
}

export interface TextPart {
  type: 'text'
  text: string
}

export interface ToolCall {
  id?: string | undefined
  type?: 'function' | undefined
  function: {
    name: string
    /** JSON, or what it says. */
    arguments: string | Record<string, unknown>
  }
}

export interface Message {
  /** 'system', 'user', 'assistant', 'tool', or what else the model's chat template knows. */
  role: string
  /** null, or absent, beside tool calls. */
  content?: string | readonly TextPart[] | null | undefined
  /** What the model thought before it answered; `reasoning_content` and `thinking` mean the same. */
  reasoning?: string | null | undefined
  reasoning_content?: string | null | undefined
  thinking?: string | null | undefined
  tool_calls?: readonly ToolCall[] | null | undefined
  tool_call_id?: string | null | undefined
  name?: string | null | undefined
}

export interface Tool {
  type: 'function'
  function: {
    name: string
    description?: string | undefined
    /** A JSON schema. */
    parameters?: Record<string, unknown> | undefined
  }
}

/** A checkpoint's template: one, or several with names. */
export type Templates = string | readonly { name: string; template: string }[]
