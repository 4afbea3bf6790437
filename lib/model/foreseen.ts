/** For benches: what a model's answers are drafted from, in the place of its drafters. */

const answers = new WeakMap<object, Int32Array>()

/** From here on, drafts of every answer of the model are the tokens of this one at the same places; undefined: its own drafters'. */
export function foresee(model: object, answer: Int32Array | undefined): void {
  if (answer) answers.set(model, answer)
  else answers.delete(model)
}

export function foreseenBy(model: object): Int32Array {
  return answers.get(model) ?? NOTHING
}

const NOTHING = new Int32Array()
