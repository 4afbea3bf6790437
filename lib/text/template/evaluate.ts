/** Runs the statements of the parser's tree with Jinja 3.1's meaning. */
import { Blocks } from './blocks.ts'
import { SPECIAL } from './dialect.ts'
import { CONSTANTS, Expressions } from './expressions.ts'
import { Loop } from './loop.ts'
import { bounded, MAX_DEPTH, spend } from './meter.ts'
import type { Call, CallBlock, Expression, For, Member, Parameter, SetStatement, Statement } from './nodes.ts'
import { typeError, Unbounded, undefinedError, valueError } from './problems.ts'
import { Scope } from './scope.ts'
import { str } from './text.ts'
import { Callable, Dict, iterate, Namespace, orElse, Tuple, truth, Undefined, type Value } from './values.ts'

/** How a block ended. */
type Ending = 'break' | 'continue' | undefined

export class Evaluator {
  readonly #expressions = new Expressions()
  #output = ''
  #depth = 0
  #loops = 0
  #root = new Scope()

  run(body: readonly Statement[], scope: Scope): string {
    // A template's own variables and blocks; `self` is none of the caller's.
    this.#root = new Scope(scope, [['self', new Blocks(body, (own) => this.#enter(() => this.#named(own)))]])
    this.#block(body, this.#root)
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
        return this.#block(truth(this.#expressions.value(node.test, scope)) ? node.body : node.alternate, scope)
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
        this.#print(str(this.#expressions.value(node, scope)))
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

  #named(body: readonly Statement[]): string {
    return this.#capture(body, new Scope(this.#root))
  }

  #for(node: For, scope: Scope): Ending {
    const { iterable } = node
    const special =
      iterable.type === 'CallExpression' && iterable.callee.type === 'Identifier' ? iterable.callee.value : ''
    if (special !== SPECIAL.each && special !== SPECIAL.recursive) {
      this.#loop(node, this.#expressions.value(iterable, scope), undefined, scope, special === SPECIAL.recursive)
      return undefined
    }
    const [items, test] = (iterable as Call).args as Expression[]
    this.#loop(node, this.#expressions.value(items!, scope), test, scope, special === SPECIAL.recursive)
    return undefined
  }

  #loop(node: For, items: Value, test: Expression | undefined, scope: Scope, isRecursive: boolean): void {
    const passes = (item: Value) => {
      if (!test) return true
      const inner = new Scope(scope)
      this.#assign(node.loopvar, item, inner)
      return truth(this.#expressions.value(test, inner))
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
      this.#assign(assignee, this.#expressions.value(value, scope), scope)
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
    this.#assign(target, this.#expressions.value(assignee, inner), scope)
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
      const owner = this.#expressions.value(target.object, scope)
      if (!(owner instanceof Namespace)) throw typeError('cannot assign attribute on non-namespace object')
      const { property } = target
      owner.values.set(
        property.type === 'Identifier' && !target.computed ? property.value : str(this.#property(target, scope)),
        value,
      )
    } else throw typeError('cannot assign to an expression')
  }

  #property({ property }: Member, scope: Scope): Value {
    return property.type === 'SliceExpression' ? null : this.#expressions.value(property, scope)
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
            : this.#expressions.value(parameter.value, inner)
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
    else if (special === SPECIAL.named) {
      // A block sees what stands outside of all loops, but with 'scoped'.
      this.#print(call.args.length > 1 ? this.#capture(body, new Scope(scope)) : this.#named(body))
    } else if (special === SPECIAL.with) {
      const [, named] = this.#expressions.arguments(call.args, scope)
      return this.#block(body, new Scope(scope, named))
    } else if (special === SPECIAL.filter) {
      const text = this.#capture(body, new Scope(scope))
      this.#print(str(this.#expressions.value(first as Expression, new Scope(scope, [[SPECIAL.body, text]]))))
    } else {
      const inner = first as Expression
      if (inner.type !== 'CallExpression') throw typeError('a call block needs a call')
      const caller = this.#macro('caller', callerArgs ?? [], body, scope)
      this.#print(str(this.#expressions.call(inner, scope, [['caller', caller]])))
    }
    return undefined
  }
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
