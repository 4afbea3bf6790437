/** Three grammars in the form of llama.cpp, and what others say of their texts. */

export const ARITHMETIC = `
# sums of products
root   ::= expr "\\n"?
expr   ::= term (ws ("+" | "-") ws term)*
term   ::= factor (ws [*/] ws factor)*
factor ::= number | "(" ws expr ws ")" | "-" factor
number ::= [0-9]+ ("." [0-9]{1,3})?
ws     ::= " "?
`
export const JSON_GRAMMAR = `
root   ::= value
value  ::= object | array | string | number | ("true" | "false" | "null")
object ::= "{" ws (member ("," ws member)*)? "}" ws
member ::= string ":" ws value
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\\"" ([^"\\\\\\x00-\\x1F] | "\\\\" (["\\\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\\"" ws
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
ws     ::= [ \\t\\n]*
`
export const CHESS = `
root  ::= "1. " move " " move "\\n" ([1-9] [0-9]? ". " move " " move "\\n")*
move  ::= (pawn | piece | castle) [+#]?
piece ::= [NBKQR] [a-h]? [1-8]? "x"? square
pawn  ::= ([a-h] "x")? square ("=" [NBQR])?
castle ::= "O-O" "-O"?
square ::= [a-h] [1-8]
`

/** As JavaScript reads it, once numbers have no leading zeros and signs stand apart. */
export function isArithmetic(text: string): boolean {
  if (!/^[\d.+\-*/() ]+\n?$/.test(text)) return false
  try {
    new Function(`return ${text.replaceAll(/\d+(\.\d{1,3})?/g, '1').replaceAll('-', '- ')}`)
    return true
  } catch {
    return false
  }
}

export function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

const SQUARE = '[a-h][1-8]'
const MOVE = `(([a-h]x)?${SQUARE}(=[NBQR])?|[NBKQR][a-h]?[1-8]?x?${SQUARE}|O-O(-O)?)[+#]?`
const GAME = new RegExp(`^1\\. ${MOVE} ${MOVE}\n([1-9]\\d?\\. ${MOVE} ${MOVE}\n)*$`)

export const isChess = (text: string) => GAME.test(text)
