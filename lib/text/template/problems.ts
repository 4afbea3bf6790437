/** What may go wrong in a template, by whose fault it is; ChatTemplate makes MillraceErrors of them. */

/** The template's own raise_exception(). */
export class Refusal extends Error {}

/** An error that Python would raise, such as a sum of a text and None: the messages do not suit the template. */
export class PythonError extends Error {
  constructor(type: string, message: string) {
    super(`${type}: ${message}`)
  }
}

/** Valid Jinja, or an extension of it, that this evaluator lacks. */
export class Lacking extends Error {}

/** No Jinja at all. */
export class Unparsable extends Error {}

/** The template asks for more steps, text or depth than any chat needs. */
export class Unbounded extends Error {}

export const typeError = (message: string) => new PythonError('TypeError', message)
export const valueError = (message: string) => new PythonError('ValueError', message)
export const undefinedError = (message: string) => new PythonError('UndefinedError', message)
