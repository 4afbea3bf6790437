/** 'owner/name' and 'owner/name:file.gguf': which texts name a repository of the hub, and which a path of this machine. */
import { existsSync } from 'node:fs'

export interface HubName {
  /** 'owner/name'. */
  repo: string
  /** A GGUF file of it, by path, name or type of quantisation; undefined: the model that it is. */
  file: string | undefined
}

/** As the hub has them: letters, digits, and between them '-', '_' and '.'. */
const NAME = /^([A-Za-z0-9](?:[\w.-]{0,94}\w)?\/\w(?:[\w.-]{0,94}\w)?)(?::(.+))?$/
/** Not what the hub would ever have, and what a path may. */
const NEVER = /--|\.\.|\.git$/
/** A path that is not there, rather than a repository. */
const FILE = /\.(gguf|safetensors|json|bin)$/i

/** The repository that a text names. What is there as a path is one, whatever it looks like. */
export function parseHubName(text: string): HubName | undefined {
  const [, repo, file] = NAME.exec(text) ?? []
  if (repo === undefined || NEVER.test(repo) || (file === undefined && FILE.test(repo)) || existsSync(text)) {
    return undefined
  }
  return { repo, file }
}
