/** A model whose template is of Qwen's kind, and whose answers the test says word for word. */
import { load, type Model } from '../../../lib/index.ts'
import type { FakeAddon, FakeModel } from '../model/fake_addon.ts'
import { folderOf, QWEN } from '../model/qwen.ts'

export interface Played {
  model: Model
  native: FakeModel
  /** What the next request is answered with, a piece at a time; then how it ends. */
  say(text: string, finish?: 'stop' | 'length'): void
  /** Of the last request, special tokens as their texts. */
  prompt(): string
}

export async function playedModel(addon: FakeAddon): Promise<Played> {
  const model = await load(await folderOf(QWEN))
  const native = addon.models.at(-1)!
  const script: { text: string; finish: 'stop' | 'length' }[] = []
  const submit = native.submit.bind(native)
  native.submit = (id, request) => {
    submit(id, request)
    const next = script.shift()
    if (next) void play(id, next)
    return id
  }
  async function play(request: number, { text, finish }: (typeof script)[number]): Promise<void> {
    const tokens = [...(await model.tokenizer.encode(text, { specialTokens: false }))]
    for (let at = 0; at < tokens.length; at += 3) {
      await new Promise((resolve) => setTimeout(resolve, 1))
      native.answer(tokens.slice(at, at + 3), { request })
    }
    native.answer([], { request, finish })
  }
  return {
    model,
    native,
    say: (text, finish = 'stop') => script.push({ text, finish }),
    prompt: () =>
      [...native.submitted.at(-1)!.request.tokens]
        .map((token) => Buffer.from(model.tokenizer.bytesOf(token)!).toString('latin1'))
        .join(''),
  }
}
