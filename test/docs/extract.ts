/** Commands and snippets that the documents show. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { ROOT } from '../built.ts'

export interface Found {
  /** As it is written, without prompt and comment. */
  text: string
  /** README.md:12 */
  where: string
}

/** README.md and docs/*.md; notes tell of what was, and have no commands to keep. */
export function documents(): string[] {
  const docs = readdirSync(join(ROOT, 'docs')).filter((name) => name.endsWith('.md'))
  return ['README.md', ...docs.map((name) => join('docs', name))]
}

interface Block {
  language: string
  lines: string[]
  /** Of its first line, from 1. */
  line: number
}

/** Fenced blocks, indented ones too, and the text between them, line by line. */
export function parse(markdown: string): { blocks: Block[]; prose: [line: number, text: string][] } {
  const blocks: Block[] = []
  const prose: [number, string][] = []
  let open: (Block & { fence: string }) | undefined
  for (const [index, line] of markdown.split('\n').entries()) {
    const fence = /^(\s*)(```+)(\w*)\s*$/.exec(line)
    if (open && line.trim() === open.fence) open = undefined
    else if (open) open.lines.push(line)
    else if (fence) {
      open = { language: fence[3]!, fence: fence[2]!, lines: [], line: index + 2 }
      blocks.push(open)
    } else prose.push([index + 1, line])
  }
  return { blocks, prose }
}

const SHELLS = ['sh', 'bash', 'shell', 'console']
/** Programs that a span of code in a sentence may call. One word alone is a name, unless it is a program of ours. */
const PROGRAM = /^(millrace|node|npm|npx|cmake|nvcc|nsys|ncu|compute-sanitizer|nice|git|sh|bash)\s+\S/
const OURS = /^(\.ci\/\w+|\.cmake\/\S+|(\S*\/)?(cuda|cpu|engine)_\w+_bench|bench\/\S+\.sh)(\s|$)/
/** What has a flag behind a word is a command, whoever's. */
const FLAGGED = /^[^-\s]\S* (.* )?--[a-z]/

export function commandsOf(path: string): Found[] {
  const { blocks, prose } = parse(readFileSync(join(ROOT, path), 'utf8'))
  const found: Found[] = []
  for (const { language, lines, line } of blocks) {
    if (!SHELLS.includes(language)) continue
    for (const [index, text] of lines.entries()) {
      const command = withoutComment(text).trim()
      if (command !== '') found.push({ text: command, where: `${path}:${line + index}` })
    }
  }
  for (const [line, text] of prose) {
    for (const [, span] of text.matchAll(/`([^`]+)`/g)) {
      const command = span!.trim()
      if (PROGRAM.test(command) || OURS.test(command) || FLAGGED.test(command)) {
        found.push({ text: command, where: `${path}:${line}` })
      }
    }
  }
  return found
}

/** What the comment at the top of a bench says to run; --help prints it. */
export function commandsOfBench(path: string): Found[] {
  return readFileSync(join(ROOT, path), 'utf8')
    .split('\n')
    .flatMap((line, index) => {
      const command = /^\/\/ +((?:npm run build && )?node bench\/.*?)(?: {2,}.*)?$/.exec(line)?.[1]
      return command === undefined ? [] : [{ text: command, where: `${path}:${index + 1}` }]
    })
}

export function snippetsOf(path: string): Found[] {
  return parse(readFileSync(join(ROOT, path), 'utf8'))
    .blocks.filter(({ language }) => ['ts', 'typescript', 'js', 'javascript'].includes(language))
    .map(({ lines, line }) => ({ text: `${lines.join('\n')}\n`, where: `${path}:${line}` }))
}

/** Every file of bench/, by its path in the repository. */
export function benchFiles(): string[] {
  return readdirSync(join(ROOT, 'bench'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .sort()
}

function withoutComment(line: string): string {
  let quote = ''
  for (const [index, character] of [...line].entries()) {
    if (quote !== '') quote = character === quote ? '' : quote
    else if (character === '"' || character === "'") quote = character
    else if (character === '#' && (index === 0 || /\s/.test(line[index - 1]!))) return line.slice(0, index)
  }
  return line
}

/** The commands of a line, each as its words; what is optional is left out, and so are priorities and variables. */
export function wordsOf(line: string): string[][] {
  let plain = line
  for (let before = ''; before !== plain; ) {
    before = plain
    plain = plain.replace(/\[[^[\]]*\]/g, ' ')
  }
  return plain.split('&&').map((part) => {
    const words = [...part.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(([, a, b, c]) => a ?? b ?? c!)
    const meant = words.filter((word) => word !== '...')
    while (/^[A-Z_]+=/.test(meant[0] ?? '')) meant.shift()
    if (meant[0] === 'nice') meant.splice(0, 3)
    return meant
  })
}
