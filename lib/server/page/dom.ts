/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/**
 * What the page's scripts have in common. Each script is one function that names nothing outside itself: its text goes into the
 * page.
 */
export interface Ui {
  byId<Kind extends HTMLElement>(id: string): Kind
  make<Name extends keyof HTMLElementTagNameMap>(
    name: Name,
    className?: string,
    text?: string,
  ): HTMLElementTagNameMap[Name]
  request(path: string, options?: { body?: object; signal?: AbortSignal }): Promise<Response>
  /** What `data:` has, an object each, until the stream ends. */
  events(response: Response): AsyncGenerator<Record<string, never>, void, undefined>
}

export function makeUi(): Ui {
  const byId = <Kind extends HTMLElement>(id: string) => document.getElementById(id) as Kind
  return {
    byId,
    make(name, className = '', text = '') {
      const element = document.createElement(name)
      element.className = className
      element.textContent = text
      return element
    },
    async request(path, { body, signal } = {}) {
      const key = byId<HTMLInputElement>('key').value.trim()
      const response = await fetch(path, {
        method: body ? 'POST' : 'GET',
        headers: {
          ...(body ? { 'content-type': 'application/json' } : {}),
          ...(key ? { authorization: `Bearer ${key}` } : {}),
        },
        ...(body ? { body: JSON.stringify(body) } : {}),
        ...(signal ? { signal } : {}),
      })
      if (response.ok) return response
      const told = await response.json().catch(() => undefined)
      const error = new Error(told?.error?.message ?? `The server answered ${response.status}`)
      error.name = String(response.status)
      throw error
    },
    async *events(response) {
      const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
      let held = ''
      for (;;) {
        const { value, done } = await reader.read()
        if (done) return
        held += value
        const blocks = held.split('\n\n')
        held = blocks.pop()!
        for (const block of blocks) {
          if (!block.startsWith('data: ') || block === 'data: [DONE]') continue
          yield JSON.parse(block.slice(6))
        }
      }
    },
  }
}
