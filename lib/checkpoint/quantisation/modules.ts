/** What the settings say of single modules. */
import { show } from '../json.ts'
import { matchNames } from '../patterns.ts'
import type { ModuleSettings, Quantisation, UniformQuantisation } from './types.ts'

/** Other names of a module, by which the settings may mean it. */
export type Aliases = (module: string) => readonly string[]

/**
 * The settings of each of the modules, by name. Throws where a pattern cannot be read.
 */
export function moduleSettings(
  quantisation: Quantisation,
  modules: readonly string[],
  aliases: Aliases = () => [],
): (module: string) => ModuleSettings {
  const namesOf = (module: string) => [module, ...aliases(module)]
  const names = modules.flatMap(namesOf)
  /** The first of the entries that means the module. */
  const finder = (entries: readonly string[], where: string) => {
    const patterns = entries.filter((entry) => entry.startsWith(PATTERN))
    const matched = matchNames(
      patterns.map((pattern) => pattern.slice(PATTERN.length)),
      names,
      where,
    )
    return (module: string): string | undefined => {
      const known = namesOf(module)
      const found = known.find((name) => entries.includes(name))
      return found ?? patterns[matched.findIndex((of) => known.some((name) => of.has(name)))]
    }
  }

  switch (quantisation.method) {
    case 'none':
      return () => ({ quantised: false })
    case 'gptq': {
      const { rules } = quantisation
      const where = "field 'dynamic'"
      const matched = matchNames(
        rules.map((rule) => rule.pattern),
        names,
        where,
      )
      return (module) => {
        const known = namesOf(module)
        const rule = rules[matched.findIndex((of) => known.some((name) => of.has(name)))]
        const reason = rule && `${where}: pattern ${show(rule.pattern)}`
        if (rule?.excluded) return { quantised: false, reason: reason! }
        return { ...settings(quantisation, rule), ...(reason === undefined ? {} : { reason }) }
      }
    }
    case 'awq': {
      const { excluded } = quantisation
      return (module) => {
        const part = excluded.find((name) => namesOf(module).some((known) => known.includes(name)))
        if (part !== undefined) return { quantised: false, reason: `field 'modules_to_not_convert': ${show(part)}` }
        return settings(quantisation)
      }
    }
    case 'mixed': {
      const { groups, excluded } = quantisation
      const leftOut = finder(excluded, "field 'ignore'")
      // Names come before patterns, patterns in alphabetical order, and all linears last, as compressed-tensors has it.
      const targets = groups.flatMap((group) => group.targets)
      const target = finder([...targets].sort(), 'targets')
      return (module) => {
        const entry = leftOut(module)
        if (entry !== undefined) return { quantised: false, reason: `field 'ignore': ${show(entry)}` }
        const found = target(module) ?? ALL
        const group = groups.findLast((one) => one.targets.includes(found))
        return group ? settings(group.quantisation) : { quantised: false, reason: 'no group that names it' }
      }
    }
    default: {
      const leftOut = finder(quantisation.excluded, "field 'ignore'")
      return (module) => {
        const entry = leftOut(module)
        if (entry !== undefined) return { quantised: false, reason: `field 'ignore': ${show(entry)}` }
        return settings(quantisation)
      }
    }
  }
}

const PATTERN = 're:'
const ALL = 'Linear'

type Own = Partial<Pick<UniformQuantisation, 'groupSize' | 'symmetric'>> & { bits?: number }

function settings(of: UniformQuantisation, own: Own = {}): ModuleSettings {
  return {
    quantised: true,
    of,
    bits: own.bits ?? of.bits,
    groupSize: own.groupSize ?? of.groupSize,
    symmetric: own.symmetric ?? of.symmetric,
  }
}
