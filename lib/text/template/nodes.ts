/** The parser's tree, whose types the package does not export. */
interface Operator {
  value: string
  group?: number
}

export interface Name {
  type: 'Identifier'
  value: string
}

export interface Call {
  type: 'CallExpression'
  callee: Expression
  args: Argument[]
}

export type Argument =
  | Expression
  | { type: 'KeywordArgumentExpression'; key: Name; value: Expression }
  | { type: 'SpreadExpression'; argument: Expression }
  | { type: 'KeywordSpreadExpression'; argument: Expression }

export type Parameter = Name | { type: 'KeywordArgumentExpression'; key: Name; value: Expression }

export interface Member {
  type: 'MemberExpression'
  object: Expression
  property: Expression | Slice
  computed: boolean
}

export interface Slice {
  type: 'SliceExpression'
  start?: Expression
  stop?: Expression
  step?: Expression
}

export interface Binary {
  type: 'BinaryExpression'
  operator: Operator
  left: Expression
  right: Expression
}

export interface Filtered {
  type: 'FilterExpression'
  operand: Expression
  filter: Name | Call
}

export type Expression =
  | Name
  | Call
  | Member
  | Binary
  | Filtered
  | { type: 'IntegerLiteral' | 'FloatLiteral'; value: number }
  | { type: 'StringLiteral'; value: string }
  | { type: 'ArrayLiteral' | 'TupleLiteral'; value: Expression[] }
  | { type: 'ObjectLiteral'; value: Map<Expression, Expression> }
  | { type: 'UnaryExpression'; operator: Operator; argument: Expression }
  | { type: 'Ternary'; condition: Expression; trueExpr: Expression; falseExpr: Expression }
  | { type: 'SelectExpression'; lhs: Expression; test: Expression }

export interface For {
  type: 'For'
  loopvar: Expression
  iterable: Expression
  body: Statement[]
  defaultBlock: Statement[]
}

export interface Macro {
  type: 'Macro'
  name: Name
  args: Parameter[]
  body: Statement[]
}

export interface CallBlock {
  type: 'CallStatement'
  call: Call
  callerArgs: Parameter[] | null
  body: Statement[]
}

export interface SetStatement {
  type: 'Set'
  assignee: Expression
  value: Expression | null
  body: Statement[]
}

export type Statement =
  | Expression
  | For
  | Macro
  | CallBlock
  | SetStatement
  | { type: 'If'; test: Expression; body: Statement[]; alternate: Statement[] }
  | { type: 'Break' | 'Continue' | 'Comment' }
