/** A checkpoint whose chats are those of Qwen's models: tools and reasoning. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ChatTool } from '../../../lib/index.ts'
import { MODELS } from '../../models.ts'
import { temporaryFolder } from '../folder.ts'

/** As Qwen's models have it: tools in the system message, calls in JSON between tags, reasoning before the answer. */
export const QWEN = `{%- if tools %}<|im_start|>system
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

export const ADDED = ['<|im_start|>', '<|im_end|>', '<tool_call>', '</tool_call>', '<think>', '</think>']

export const TOOLS: ChatTool[] = [
  {
    type: 'function',
    function: {
      name: 'get_weather',
      description: 'The weather of a place',
      parameters: { type: 'object', properties: { place: { type: 'string' } }, required: ['place'] },
    },
  },
]

/** The demo with the template, whose tags are special tokens. */
export async function folderOf(template: string, generationConfig: object = {}): Promise<string> {
  const file = (name: string) => readFileSync(join(MODELS, 'demo', name))
  const tokenizer = JSON.parse(file('tokenizer.json').toString())
  const first = JSON.parse(file('config.json').toString()).vocab_size as number
  tokenizer.added_tokens.push(
    ...ADDED.map((content, index) => ({ id: first + index, content, special: true, normalized: false })),
  )
  const config = JSON.parse(file('config.json').toString())
  return temporaryFolder({
    'config.json': { ...config, vocab_size: first + ADDED.length },
    'model.safetensors': file('model.safetensors'),
    'tokenizer.json': tokenizer,
    'tokenizer_config.json': { eos_token: '<|im_end|>' },
    'generation_config.json': generationConfig,
    'chat_template.jinja': template,
  })
}
