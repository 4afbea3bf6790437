/** Values of expressions, with Jinja 3.1's meaning. */
import { attributeOf, itemOf } from './access.ts'
import { SPECIAL } from './dialect.ts'
import { filterNamed } from './filters.ts'
import { spend } from './meter.ts'
import type { Argument, Binary, Call, Expression, Filtered, Member } from './nodes.ts'
import { binary, compare, contains, equals, negate, slice } from './operators.ts'
import { Lacking, PythonError, typeError, undefinedError } from './problems.ts'
import type { Scope } from './scope.ts'
import { testNamed } from './tests.ts'
import { str } from './text.ts'
import {
  Callable,
  Dict,
  Float,
  integer,
  isAttributes,
  iterate,
  type Named,
  Tuple,
  truth,
  typeName,
  Undefined,
  type Value,
} from './values.ts'

export const CONSTANTS = new Map<string, Value>([
  ['true', true],
  ['True', true],
  ['false', false],
  ['False', false],
  ['none', null],
  ['None', null],
])

const COMPARISONS: Record<string, (left: Value, right: Value) => boolean> = {
  '==': equals,
  '!=': (left, right) => !equals(left, right),
  '<': (left, right) => compare(left, right, '<') < 0,
  '<=': (left, right) => compare(left, right, '<=') <= 0,
  '>': (left, right) => compare(left, right, '>') > 0,
  '>=': (left, right) => compare(left, right, '>=') >= 0,
  in: (left, right) => contains(right, left),
  'not in': (left, right) => !contains(right, left),
}

export class Expressions {
  value(node: Expression, scope: Scope): Value {
    spend()
    switch (node.type) {
      case 'StringLiteral':
      case 'IntegerLiteral':
        return node.value
      case 'FloatLiteral':
        return new Float(node.value)
      case 'Identifier':
        return this.#name(node.value, scope)
      case 'ArrayLiteral':
        return node.value.map((item) => this.value(item, scope))
      case 'TupleLiteral':
        return new Tuple(node.value.map((item) => this.value(item, scope)))
      case 'ObjectLiteral':
        return new Dict([...node.value].map(([key, item]) => [this.value(key, scope), this.value(item, scope)]))
      case 'MemberExpression':
        return this.#member(node, scope)
      case 'CallExpression':
        return this.call(node, scope)
      case 'FilterExpression':
        return this.#filter(node, scope)
      case 'UnaryExpression':
        return this.#unary(node.operator.value, this.value(node.argument, scope))
      case 'BinaryExpression':
        return this.#binary(node, scope)
      case 'Ternary':
        return this.value(truth(this.value(node.condition, scope)) ? node.trueExpr : node.falseExpr, scope)
      case 'SelectExpression':
        if (truth(this.value(node.test, scope))) return this.value(node.lhs, scope)
        return new Undefined(() =>
          undefinedError('the inline if-expression evaluated to false and no else section was defined'),
        )
    }
    throw new Lacking(`the construct ${(node as { type: string }).type} is not supported`)
  }

  #name(name: string, scope: Scope): Value {
    const constant = CONSTANTS.get(name)
    if (constant !== undefined) return constant
    return name.startsWith('int ') ? integer(BigInt(name.slice(4))) : scope.get(name)
  }

  #member(node: Member, scope: Scope): Value {
    const owner = this.value(node.object, scope)
    const { property } = node
    if (property.type === 'SliceExpression') {
      const bound = (end: Expression | undefined) => (end ? this.value(end, scope) : null)
      return slice(owner, bound(property.start), bound(property.stop), bound(property.step))
    }
    if (!node.computed && property.type === 'Identifier') return attributeOf(owner, property.value)
    return itemOf(owner, this.value(property, scope))
  }

  arguments(nodes: readonly Argument[], scope: Scope): [args: Value[], named: Map<string, Value>] {
    const args: Value[] = []
    const named = new Map<string, Value>()
    for (const node of nodes) {
      if (node.type === 'KeywordArgumentExpression') named.set(node.key.value, this.value(node.value, scope))
      else if (node.type === 'SpreadExpression') args.push(...iterate(this.value(node.argument, scope)))
      else if (node.type === 'KeywordSpreadExpression') {
        const more = this.value(node.argument, scope)
        if (!(more instanceof Dict)) throw typeError(`argument after ** must be a mapping, not ${typeName(more)}`)
        for (const [key, value] of more.entries()) named.set(str(key), value)
      } else args.push(this.value(node, scope))
    }
    spend(args.length)
    return [args, named]
  }

  call(node: Call, scope: Scope, more: [string, Value][] = []): Value {
    const { callee } = node
    const special = callee.type === 'Identifier' ? callee.value : ''
    const [args, named] = this.arguments(node.args, scope)
    if (special === SPECIAL.tuple) return new Tuple(args)
    if (special === SPECIAL.do) return ''
    for (const [key, value] of more) named.set(key, value)
    return callValue(this.value(callee, scope), args, named)
  }

  #filter({ operand, filter }: Filtered, scope: Scope): Value {
    const value = this.value(operand, scope)
    if (filter.type === 'CallExpression' && filter.callee.type !== 'Identifier')
      throw new Lacking('a filter must be a name')
    const name = (filter.type === 'Identifier' ? filter : (filter.callee as { value: string })).value
    const [args, named] = filter.type === 'Identifier' ? [[], new Map()] : this.arguments(filter.args, scope)
    if (name.startsWith('is not ')) return !testNamed(name.slice(7))(value, args)
    if (name.startsWith('is ')) return testNamed(name.slice(3))(value, args)
    return filterNamed(name)(value, args, named)
  }

  #unary(operator: string, value: Value): Value {
    if (operator === 'not') return !truth(value)
    return operator === '-' ? negate(value) : negate(negate(value))
  }

  #binary(node: Binary, scope: Scope): Value {
    const operator = node.operator.value
    if (operator === 'and' || operator === 'or') {
      const left = this.value(node.left, scope)
      return truth(left) === (operator === 'or') ? left : this.value(node.right, scope)
    }
    if (operator in COMPARISONS) return this.#comparison(node, scope)[0]
    return binary(operator, this.value(node.left, scope), this.value(node.right, scope))
  }

  /** a < b < c is a < b and b < c: whether it holds, and the last value. */
  #comparison(node: Binary, scope: Scope): [holds: boolean, last: Value] {
    const { left } = node
    const isChain =
      left.type === 'BinaryExpression' &&
      left.operator.value in COMPARISONS &&
      left.operator.group === node.operator.group
    const [holds, value]: [boolean, Value] = isChain ? this.#comparison(left, scope) : [true, this.value(left, scope)]
    if (!holds) return [false, null]
    const right = this.value(node.right, scope)
    return [COMPARISONS[node.operator.value]!(value, right), right]
  }
}

function callValue(callee: Value, args: Value[], named: Named): Value {
  if (callee instanceof Callable) return callee.call(args, named)
  if (isAttributes(callee) && callee.call) return callee.call(args, named)
  if (callee instanceof Undefined) {
    if (callee.variable !== undefined) throw new Lacking(`there is no function '${callee.variable}'`)
    throw callee.problem()
  }
  throw new PythonError('TypeError', `'${typeName(callee)}' object is not callable`)
}
