/** Chats as OpenAI's API writes them, with what templates know beyond that. */

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
  role: string
  /** null, or absent, beside tool calls. */
  content?: string | readonly TextPart[] | null | undefined
  /** What the model thought before it answered; `reasoning_content` and `thinking` mean the same. */
  reasoning?: string | null | undefined
  reasoning_content?: string | null | undefined
  thinking?: string | null | undefined
  tool_calls?: readonly ToolCall[] | null | undefined
  tool_call_id?: string | undefined
  name?: string | undefined
}

export interface Tool {
  type: 'function'
  function: {
    name: string
    description?: string | undefined
    parameters?: Record<string, unknown> | undefined
  }
}

/** A checkpoint's template: one, or several with names. */
export type Templates = string | readonly { name: string; template: string }[]
