/** Runs the parser's tree with Jinja 3.1's meaning. */
import { attributeOf, itemOf } from './access.ts'
import { SPECIAL } from './dialect.ts'
import { filterNamed } from './filters.ts'
import { Loop } from './loop.ts'
import { bounded, MAX_DEPTH, spend } from './meter.ts'
import type {
  Argument,
  Binary,
  Call,
  CallBlock,
  Expression,
  Filtered,
  For,
  Member,
  Parameter,
  SetStatement,
  Statement,
} from './nodes.ts'
import { binary, compare, contains, equals, negate, slice } from './operators.ts'
import { Lacking, PythonError, typeError, Unbounded, undefinedError, valueError } from './problems.ts'
import { Scope } from './scope.ts'
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
  Namespace,
  orElse,
  Tuple,
  truth,
  typeName,
  Undefined,
  type Value,
} from './values.ts'

/** How a block ended. */
type Ending = 'break' | 'continue' | undefined

const CONSTANTS = new Map<string, Value>([
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

export class Evaluator {
  #output = ''
  #depth = 0
  #loops = 0

  run(body: readonly Statement[], scope: Scope): string {
    this.#block(body, scope)
    return this.#output
  }

  #block(body: readonly Statement[], scope: Scope): Ending {
    for (const statement of body) {
      const ending = this.#statement(statement, scope)
      if (ending) return ending
    }
    return undefined
  }

  #statement(node: Statement, scope: Scope): Ending {
    spend()
    switch (node.type) {
      case 'Comment':
        return undefined
      case 'Break':
        return 'break'
      case 'Continue':
        return 'continue'
      case 'If':
        return this.#block(truth(this.#value(node.test, scope)) ? node.body : node.alternate, scope)
      case 'For':
        return this.#for(node, scope)
      case 'Set':
        this.#set(node, scope)
        return undefined
      case 'Macro':
        scope.set(node.name.value, this.#macro(node.name.value, node.args, node.body, scope))
        return undefined
      case 'CallStatement':
        return this.#callBlock(node, scope)
      default:
        this.#print(str(this.#value(node, scope)))
        return undefined
    }
  }

  #print(text: string): void {
    this.#output = bounded(this.#output + text)
  }

  /** What a block prints. */
  #capture(body: readonly Statement[], scope: Scope): string {
    const outside = this.#output
    this.#output = ''
    try {
      this.#block(body, scope)
      return this.#output
    } finally {
      this.#output = outside
    }
  }

  #for(node: For, scope: Scope): Ending {
    const { iterable } = node
    const special =
      iterable.type === 'CallExpression' && iterable.callee.type === 'Identifier' ? iterable.callee.value : ''
    if (special !== SPECIAL.each && special !== SPECIAL.recursive) {
      this.#loop(node, this.#value(iterable, scope), undefined, scope, special === SPECIAL.recursive)
      return undefined
    }
    const [items, test] = (iterable as Call).args as Expression[]
    this.#loop(node, this.#value(items!, scope), test, scope, special === SPECIAL.recursive)
    return undefined
  }

  #loop(node: For, items: Value, test: Expression | undefined, scope: Scope, isRecursive: boolean): void {
    const passes = (item: Value) => {
      if (!test) return true
      const inner = new Scope(scope)
      this.#assign(node.loopvar, item, inner)
      return truth(this.#value(test, inner))
    }
    const again = (inner: Value) => {
      const outside = this.#output
      this.#output = ''
      try {
        this.#enter(() => this.#loop(node, inner, test, scope, true))
        return this.#output
      } finally {
        this.#output = outside
      }
    }
    const depth = isRecursive ? ++this.#loops : 1
    const loop = new Loop(iterate(items), passes, depth, isRecursive ? again : undefined)
    let ran = false
    try {
      for (let item = loop.next(); item !== undefined; item = loop.next()) {
        ran = true
        const inner = new Scope(scope, [['loop', loop]])
        this.#assign(node.loopvar, item, inner)
        if (this.#block(node.body, inner) === 'break') break
      }
    } finally {
      if (isRecursive) this.#loops--
    }
    if (!ran) this.#block(node.defaultBlock, new Scope(scope))
  }

  #set({ assignee, value, body }: SetStatement, scope: Scope): void {
    if (value) {
      this.#assign(assignee, this.#value(value, scope), scope)
      return
    }
    const text = this.#capture(body, new Scope(scope))
    if (assignee.type !== 'FilterExpression') {
      this.#assign(assignee, text, scope)
      return
    }
    // {% set x | f | g %}: the innermost operand is the name.
    let target: Expression = assignee
    while (target.type === 'FilterExpression') target = target.operand
    const inner = new Scope(scope, target.type === 'Identifier' ? [[target.value, text]] : [])
    this.#assign(target, this.#value(assignee, inner), scope)
  }

  #assign(target: Expression, value: Value, scope: Scope): void {
    if (target.type === 'Identifier') {
      if (CONSTANTS.has(target.value)) throw typeError(`cannot assign to '${target.value}'`)
      scope.set(target.value, value)
    } else if (target.type === 'TupleLiteral' || target.type === 'ArrayLiteral') {
      const items = iterate(value)
      const wanted = target.value.length
      if (items.length < wanted)
        throw valueError(`not enough values to unpack (expected ${wanted}, got ${items.length})`)
      if (items.length > wanted) throw valueError(`too many values to unpack (expected ${wanted})`)
      target.value.forEach((one, index) => {
        this.#assign(one, items[index]!, scope)
      })
    } else if (target.type === 'MemberExpression') {
      const owner = this.#value(target.object, scope)
      if (!(owner instanceof Namespace)) throw typeError('cannot assign attribute on non-namespace object')
      const { property } = target
      owner.values.set(
        property.type === 'Identifier' && !target.computed ? property.value : str(this.#property(target, scope)),
        value,
      )
    } else throw typeError('cannot assign to an expression')
  }

  #property({ property }: Member, scope: Scope): Value {
    return property.type === 'SliceExpression' ? null : this.#value(property, scope)
  }

  #macro(name: string, parameters: readonly Parameter[], body: readonly Statement[], scope: Scope): Callable {
    const names = parameters.map((parameter) => (parameter.type === 'Identifier' ? parameter : parameter.key).value)
    return new Callable(name, (args, named) => {
      const inner = new Scope(scope)
      const rest = new Map(named)
      if (args.length > names.length && !mentions(body, 'varargs')) {
        throw typeError(`macro '${name}' takes not more than ${names.length} argument(s)`)
      }
      inner.set('varargs', new Tuple(args.slice(names.length)))
      inner.set(
        'caller',
        orElse(rest.get('caller'), () => Undefined.named('caller')),
      )
      parameters.forEach((parameter, index) => {
        const key = names[index]!
        const given = index < args.length ? args[index] : rest.get(key)
        rest.delete(key)
        const fallback = () =>
          parameter.type === 'Identifier'
            ? new Undefined(() => undefinedError(`parameter '${key}' was not provided`))
            : this.#value(parameter.value, inner)
        inner.set(key, orElse(given, fallback))
      })
      if (mentions(body, 'caller')) rest.delete('caller')
      if (rest.size > 0 && !mentions(body, 'kwargs')) {
        throw typeError(`macro '${name}' takes no keyword argument '${[...rest.keys()][0]}'`)
      }
      inner.set('kwargs', new Dict(rest))
      return this.#enter(() => this.#capture(body, inner))
    })
  }

  #enter<T>(run: () => T): T {
    if (++this.#depth > MAX_DEPTH) throw new Unbounded(`calls more than ${MAX_DEPTH} deep`)
    try {
      return run()
    } finally {
      this.#depth--
    }
  }

  #callBlock({ call, callerArgs, body }: CallBlock, scope: Scope): Ending {
    const special = call.callee.type === 'Identifier' ? call.callee.value : ''
    const [first] = call.args
    if (special === SPECIAL.plain) this.#print(this.#capture(body, new Scope(scope)))
    else if (special === SPECIAL.with) {
      const [, named] = this.#arguments(call.args, scope)
      return this.#block(body, new Scope(scope, named))
    } else if (special === SPECIAL.filter) {
      const text = this.#capture(body, new Scope(scope))
      this.#print(str(this.#value(first as Expression, new Scope(scope, [[SPECIAL.body, text]]))))
    } else {
      const inner = first as Expression
      if (inner.type !== 'CallExpression') throw typeError('a call block needs a call')
      const caller = this.#macro('caller', callerArgs ?? [], body, scope)
      this.#print(str(this.#call(inner, scope, [['caller', caller]])))
    }
    return undefined
  }

  #value(node: Expression, scope: Scope): Value {
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
        return node.value.map((item) => this.#value(item, scope))
      case 'TupleLiteral':
        return new Tuple(node.value.map((item) => this.#value(item, scope)))
      case 'ObjectLiteral':
        return new Dict([...node.value].map(([key, item]) => [this.#value(key, scope), this.#value(item, scope)]))
      case 'MemberExpression':
        return this.#member(node, scope)
      case 'CallExpression':
        return this.#call(node, scope)
      case 'FilterExpression':
        return this.#filter(node, scope)
      case 'UnaryExpression':
        return this.#unary(node.operator.value, this.#value(node.argument, scope))
      case 'BinaryExpression':
        return this.#binary(node, scope)
      case 'Ternary':
        return this.#value(truth(this.#value(node.condition, scope)) ? node.trueExpr : node.falseExpr, scope)
      case 'SelectExpression':
        if (truth(this.#value(node.test, scope))) return this.#value(node.lhs, scope)
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
    const owner = this.#value(node.object, scope)
    const { property } = node
    if (property.type === 'SliceExpression') {
      const bound = (end: Expression | undefined) => (end ? this.#value(end, scope) : null)
      return slice(owner, bound(property.start), bound(property.stop), bound(property.step))
    }
    if (!node.computed && property.type === 'Identifier') return attributeOf(owner, property.value)
    return itemOf(owner, this.#value(property, scope))
  }

  #arguments(nodes: readonly Argument[], scope: Scope): [args: Value[], named: Map<string, Value>] {
    const args: Value[] = []
    const named = new Map<string, Value>()
    for (const node of nodes) {
      if (node.type === 'KeywordArgumentExpression') named.set(node.key.value, this.#value(node.value, scope))
      else if (node.type === 'SpreadExpression') args.push(...iterate(this.#value(node.argument, scope)))
      else if (node.type === 'KeywordSpreadExpression') {
        const more = this.#value(node.argument, scope)
        if (!(more instanceof Dict)) throw typeError(`argument after ** must be a mapping, not ${typeName(more)}`)
        for (const [key, value] of more.entries()) named.set(str(key), value)
      } else args.push(this.#value(node, scope))
    }
    spend(args.length)
    return [args, named]
  }

  #call(node: Call, scope: Scope, more: [string, Value][] = []): Value {
    const { callee } = node
    const special = callee.type === 'Identifier' ? callee.value : ''
    const [args, named] = this.#arguments(node.args, scope)
    if (special === SPECIAL.tuple) return new Tuple(args)
    if (special === SPECIAL.do) return ''
    for (const [key, value] of more) named.set(key, value)
    return call(this.#value(callee, scope), args, named)
  }

  #filter({ operand, filter }: Filtered, scope: Scope): Value {
    const value = this.#value(operand, scope)
    if (filter.type === 'CallExpression' && filter.callee.type !== 'Identifier')
      throw new Lacking('a filter must be a name')
    const name = (filter.type === 'Identifier' ? filter : (filter.callee as { value: string })).value
    const [args, named] = filter.type === 'Identifier' ? [[], new Map()] : this.#arguments(filter.args, scope)
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
      const left = this.#value(node.left, scope)
      return truth(left) === (operator === 'or') ? left : this.#value(node.right, scope)
    }
    if (operator in COMPARISONS) return this.#comparison(node, scope)[0]
    return binary(operator, this.#value(node.left, scope), this.#value(node.right, scope))
  }

  /** a < b < c is a < b and b < c: whether it holds, and the last value. */
  #comparison(node: Binary, scope: Scope): [holds: boolean, last: Value] {
    const { left } = node
    const isChain =
      left.type === 'BinaryExpression' &&
      left.operator.value in COMPARISONS &&
      left.operator.group === node.operator.group
    const [holds, value]: [boolean, Value] = isChain ? this.#comparison(left, scope) : [true, this.#value(left, scope)]
    if (!holds) return [false, null]
    const right = this.#value(node.right, scope)
    return [COMPARISONS[node.operator.value]!(value, right), right]
  }
}

function call(callee: Value, args: Value[], named: Named): Value {
  if (callee instanceof Callable) return callee.call(args, named)
  if (isAttributes(callee) && callee.call) return callee.call(args, named)
  if (callee instanceof Undefined) {
    if (callee.variable !== undefined) throw new Lacking(`there is no function '${callee.variable}'`)
    throw callee.problem()
  }
  throw new PythonError('TypeError', `'${typeName(callee)}' object is not callable`)
}

/** Whether a name stands in a tree: a macro that names `varargs`, `kwargs` or `caller` takes them, another does not. */
function mentions(node: unknown, name: string): boolean {
  spend()
  if (node instanceof Map) return [...node].some((pair) => mentions(pair, name))
  if (Array.isArray(node)) return node.some((item) => mentions(item, name))
  if (typeof node !== 'object' || node === null) return false
  if ('type' in node && node.type === 'Identifier' && 'value' in node && node.value === name) return true
  return Object.values(node).some((item) => mentions(item, name))
}
