/** `value.name` and `value[key]`: Jinja tries attributes first for the one, items first for the other. */

import { methodOf } from './methods.ts'
import { itemAt } from './operators.ts'
import { Lacking } from './problems.ts'
import { Callable, Dict, isAttributes, isHashable, Namespace, orElse, Tuple, Undefined, type Value } from './values.ts'

/** getattr(), without items. */
function attribute(owner: Value, name: string): Value | undefined {
  if (owner instanceof Namespace) return owner.values.get(name)
  if (owner instanceof Callable) return name === 'name' || name === '__name__' ? owner.name : undefined
  if (owner instanceof Tuple && owner.names.includes(name)) return owner.items[owner.names.indexOf(name)]
  if (isAttributes(owner)) return owner.attribute(name)
  // Python keeps its internals under such names, and the sandbox of templates keeps them away.
  if (name.startsWith('__')) return new Undefined(() => new Lacking(`the attribute '${name}' is not safe`))
  return methodOf(owner, name)
}

function item(owner: Value, key: Value): Value | undefined {
  if (owner instanceof Dict) return owner.get(key)
  if (owner instanceof Namespace) return typeof key === 'string' ? owner.values.get(key) : undefined
  return itemAt(owner, key)
}

/** owner.name */
export function attributeOf(owner: Value, name: string): Value {
  if (owner instanceof Undefined) throw owner.problem()
  return orElse(attribute(owner, name), () => orElse(item(owner, name), () => Undefined.within(owner, name)))
}

/** owner[key] */
export function itemOf(owner: Value, key: Value): Value {
  if (owner instanceof Undefined) throw owner.problem()
  const missing = () => Undefined.within(owner, key)
  if (owner instanceof Dict && !isHashable(key)) return missing()
  return orElse(item(owner, key), () => (typeof key === 'string' ? orElse(attribute(owner, key), missing) : missing()))
}

/** An attribute as filters name it: 'a.b' and 'a.0' are paths, numbers are items. */
export function attributePath(owner: Value, path: Value, fallback?: Value, attributesOnly = false): Value {
  if (attributesOnly) return orElse(attribute(owner, String(path)), () => Undefined.within(owner, path))
  const parts: Value[] =
    typeof path === 'string' ? path.split('.').map((part) => (/^\d+$/.test(part) ? Number(part) : part)) : [path]
  return parts.reduce<Value>((current, part) => {
    const found = itemOf(current, part)
    return found instanceof Undefined && fallback !== undefined ? fallback : found
  }, owner)
}
