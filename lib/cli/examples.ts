/** What the help of each command ends with; test/docs runs them as it does the commands of the documents. */
export const EXAMPLES: Readonly<Record<string, string>> = {
  generate: 'millrace generate models/demo "Once upon a time" --max-tokens 60',
  chat: 'millrace chat models/demo',
  serve: 'millrace serve models/demo --port 8080',
  batch: 'millrace batch requests.jsonl answers.jsonl --model models/demo',
  models: 'millrace models --gpu "24GiB, PCIe 4.0 x16, 1008GB/s"',
  plan: 'millrace plan llama3-8b --vram-budget 6GiB',
  pull: 'millrace pull Qwen/Qwen3-8B-AWQ',
  ls: 'millrace ls',
  rm: 'millrace rm Qwen/Qwen3-8B-AWQ',
  inspect: 'millrace inspect models/demo',
  doctor: 'millrace doctor',
  probe: 'millrace probe --calibrate',
  cache: 'millrace cache',
  build: 'millrace build',
  score: 'millrace score models/demo --file models/demo/held-out.txt --window 512',
  bench: 'millrace bench decode models/demo --batch 8',
}
