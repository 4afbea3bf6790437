/// <reference lib="dom" />
import type { Ui } from './dom.ts'

/** The conversation: sends, shows what comes as it comes, stops. */
export function startChat(ui: Ui): void {
  type Call = { id: string; type: 'function'; function: { name: string; arguments: string } }
  type Message = {
    role: string
    content: string | null
    reasoning_content?: string
    tool_calls?: Call[]
    tool_call_id?: string
  }
  type Delta = {
    content?: string
    reasoning_content?: string
    tool_calls?: { index: number; id?: string; function: { name?: string; arguments: string } }[]
  }
  type Event = {
    error?: { message: string }
    choices?: { delta: Delta; finish_reason: string | null }[]
    usage?: { completion_tokens: number }
  }

  const { byId, make, request, events } = ui
  const log = byId('log')
  const form = byId<HTMLFormElement>('ask')
  const prompt = byId<HTMLTextAreaElement>('prompt')
  const send = byId<HTMLButtonElement>('send')
  const stop = byId<HTMLButtonElement>('stop')
  const speed = byId('speed')
  let messages: Message[] = []
  let running: AbortController | undefined

  const scroll = () => {
    log.scrollTop = log.scrollHeight
  }
  const turn = (role: string): HTMLDivElement => {
    const box = make('div', `turn ${role}`)
    box.append(make('div', 'who', role === 'user' ? 'You' : role === 'tool' ? 'Tool' : 'Model'))
    log.append(box)
    scroll()
    return box
  }
  const complain = (message: string) => {
    const box = make('p', 'error', message)
    box.setAttribute('role', 'alert')
    log.append(box)
    scroll()
  }

  function settings(): Record<string, unknown> {
    const found: Record<string, unknown> = { model: byId<HTMLSelectElement>('model').value }
    for (const name of ['temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed']) {
      const { value } = byId<HTMLInputElement>(name)
      if (value !== '') found[name] = Number(value)
    }
    const tools = byId<HTMLTextAreaElement>('tools').value.trim()
    if (tools !== '') found.tools = JSON.parse(tools)
    return found
  }

  /** The parts of an answer, each where it begins. */
  function makeAnswer() {
    const box = turn('assistant')
    let open: { kind: string; text: HTMLElement } | undefined
    const part = (kind: string, title: string): HTMLElement => {
      if (open?.kind === kind) return open.text
      let text: HTMLElement
      if (kind === 'text') {
        text = make('div', 'text')
        box.append(text)
      } else {
        const details = make('details', kind === 'reasoning' ? 'thought' : 'call')
        details.open = true
        text = make('pre')
        details.append(make('summary', '', title), text)
        box.append(details)
      }
      open = { kind, text }
      return text
    }
    return (kind: string, title: string, text: string) => {
      part(kind, title).textContent += text
      scroll()
    }
  }

  async function answer(): Promise<void> {
    const controller = new AbortController()
    running = controller
    send.disabled = true
    stop.disabled = false
    // A new chat has messages of its own.
    const conversation = messages
    const message: Message = { role: 'assistant', content: '' }
    const calls: Call[] = []
    const system = byId<HTMLTextAreaElement>('system').value.trim()
    let began = 0
    let tokens = 0
    let whole = false
    try {
      const body = {
        ...settings(),
        messages: [...(system ? [{ role: 'system', content: system }] : []), ...messages],
        stream: true,
        stream_options: { include_usage: true },
      }
      const response = await request('v1/chat/completions', { body, signal: controller.signal })
      const show = makeAnswer()
      for await (const event of events(response) as AsyncGenerator<Event>) {
        if (event.error) throw new Error(event.error.message)
        if (event.usage) tokens = event.usage.completion_tokens
        const choice = event.choices?.[0]
        if (!choice) continue
        const { delta, finish_reason: reason } = choice
        if (reason !== null) whole = true
        if (began === 0) began = performance.now()
        if (delta.reasoning_content) {
          message.reasoning_content = (message.reasoning_content ?? '') + delta.reasoning_content
          show('reasoning', 'Reasoning', delta.reasoning_content)
        }
        if (delta.content) {
          message.content += delta.content
          show('text', '', delta.content)
        }
        for (const { index, id, function: piece } of delta.tool_calls ?? []) {
          calls[index] ??= { id: id!, type: 'function', function: { name: piece.name!, arguments: '' } }
          calls[index].function.arguments += piece.arguments
          show(`call ${index}`, `Calls ${calls[index].function.name}`, piece.arguments)
        }
      }
      if (!whole) throw new Error('The connection was cut')
      const seconds = (performance.now() - began) / 1000
      if (tokens > 1)
        speed.textContent = `${tokens} tokens, ${((tokens - 1) / Math.max(seconds, 1e-3)).toFixed(1)} tokens/s`
    } catch (error) {
      whole = false
      if (!controller.signal.aborted) complain((error as Error).message)
      else if (conversation === messages) speed.textContent = 'Stopped'
    }
    // A call that was cut short is none: no server would take it back.
    if (whole && calls.length > 0) message.tool_calls = calls
    if (message.content || message.tool_calls) conversation.push(message)
    else if (conversation === messages) takeBack()
    running = undefined
    send.disabled = false
    stop.disabled = true
    if (message.tool_calls && conversation === messages) askResults(calls)
  }

  /** A message that nobody answered is to be sent again or mended, and is no part of what the model has read. */
  function takeBack(): void {
    if (messages.at(-1)?.role !== 'user') return
    const { content } = messages.pop()!
    if (prompt.value === '') prompt.value = content ?? ''
  }

  /** Tools run with who reads: the results are typed in. */
  function askResults(calls: Call[]): void {
    const box = turn('tool')
    const results = make('form', 'results')
    const inputs = calls.map((call, index) => {
      const label = make('label', '', `What ${call.function.name} gave`)
      const input = make('input')
      input.id = `result-${messages.length}-${index}`
      label.htmlFor = input.id
      const field = make('div')
      field.append(label, input)
      results.append(field)
      return input
    })
    const go = make('button', 'main', 'Send results')
    results.append(go)
    box.append(results)
    results.addEventListener('submit', (event) => {
      event.preventDefault()
      if (running) return
      for (const [index, input] of inputs.entries()) {
        messages.push({ role: 'tool', tool_call_id: calls[index]!.id, content: input.value })
        input.disabled = true
      }
      go.disabled = true
      void answer()
    })
    inputs[0]!.focus()
  }

  form.addEventListener('submit', (event) => {
    event.preventDefault()
    const content = prompt.value.trim()
    if (content === '' || running) return
    messages.push({ role: 'user', content })
    turn('user').append(make('div', 'text', content))
    prompt.value = ''
    speed.textContent = ''
    void answer()
  })
  prompt.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
    event.preventDefault()
    form.requestSubmit()
  })
  stop.addEventListener('click', () => running?.abort())
  byId('clear').addEventListener('click', () => {
    running?.abort()
    messages = []
    log.replaceChildren()
    speed.textContent = ''
    prompt.focus()
  })
}
