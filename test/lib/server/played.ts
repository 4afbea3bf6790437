/** A model whose template is of Qwen's kind, and whose answers the test says word for word. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { load, type Model } from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'
import { temporaryFolder } from '../folder.ts'
import type { FakeAddon, FakeModel } from '../model/fake_addon.ts'

const QWEN = `{%- if tools %}<|im_start|>system
# Tools
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Answer with <tool_call>\\n{"name": <name>, "arguments": <arguments>}\\n</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}<|im_start|>assistant
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% elif message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}`

const ADDED = ['<|im_start|>', '<|im_end|>', '<tool_call>', '</tool_call>', '<think>', '</think>']

export interface Played {
  model: Model
  native: FakeModel
  /** What the next request is answered with, a piece at a time; then how it ends. */
  say(text: string, finish?: 'stop' | 'length'): void
  /** Of the last request, special tokens as their texts. */
  prompt(): string
}

export async function playedModel(addon: FakeAddon): Promise<Played> {
  const file = (name: string) => readFileSync(join(MODELS, 'demo', name))
  const tokenizer = JSON.parse(file('tokenizer.json').toString())
  const config = JSON.parse(file('config.json').toString())
  const first = config.vocab_size as number
  tokenizer.added_tokens.push(
    ...ADDED.map((content, index) => ({ id: first + index, content, special: true, normalized: false })),
  )
  const folder = await temporaryFolder({
    'config.json': { ...config, vocab_size: first + ADDED.length },
    'model.safetensors': file('model.safetensors'),
    'tokenizer.json': tokenizer,
    'tokenizer_config.json': { eos_token: '<|im_end|>' },
    'chat_template.jinja': QWEN,
  })
  const model = await load(folder)
  const native = addon.models.at(-1)!
  const script: { text: string; finish: 'stop' | 'length' }[] = []
  const submit = native.submit.bind(native)
  native.submit = (id, request) => {
    submit(id, request)
    const next = script.shift()
    if (next) void play(next)
    return id
  }
  async function play({ text, finish }: (typeof script)[number]): Promise<void> {
    const tokens = [...(await model.tokenizer.encode(text, { specialTokens: false }))]
    for (let at = 0; at < tokens.length; at += 3) {
      await new Promise((resolve) => setTimeout(resolve, 1))
      native.answer(tokens.slice(at, at + 3))
    }
    native.answer([], { finish })
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
