/** A byte-level BPE tokenizer of any size, the same every time: for benches and tests of what size costs. */

/** tokenizer.json with so many tokens, at least the 256 of the bytes. */
export function makeVocabulary(size) {
  const vocab = new Map()
  const printable = (byte) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) vocab.set(String.fromCodePoint(printable(byte) ? byte : next++), vocab.size)
  const letters = [...'etaoinshrdlucmfwypvbgkjxqz']
  const made = ['Ġ', ...letters]
  const merges = []
  // Every token goes on with every letter, the commonest first.
  for (let index = 0; vocab.size < size; index++) {
    for (const letter of letters) {
      const token = made[index] + letter
      if (vocab.has(token) || vocab.size >= size) continue
      vocab.set(token, vocab.size)
      merges.push([made[index], letter])
      made.push(token)
    }
  }
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }
  return {
    version: '1.0',
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: { type: 'BPE', vocab: Object.fromEntries(vocab), merges },
  }
}
