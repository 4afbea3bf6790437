/** How a command that the documents show is tried: at a toy size, on the CPU twin, or by what it says of itself. */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { SHAPES } from '../../lib/model/shapes.ts'
import { DIST, ROOT } from '../built.ts'

/** What is run, and what its output must have; `skip`: why it is not. `file`: what of bench/ it tries. */
export interface Trial {
  argv: string[]
  expected?: RegExp[]
  input?: string
  skip?: string
  file?: string
}

/** Where the trials may write. */
export interface Places {
  temporary: string
  /** A folder with a node_modules/node-llama-cpp. */
  peer: string
  /** The environment of a process that fetches models by name. */
  hub: NodeJS.ProcessEnv
}

/** Throws where a command has no rule, or names what is not there. */
export function trialOf(words: string[], places: Places): Trial {
  const [program = '', ...args] = words
  if (program === 'millrace') return millrace(args)
  if (program === 'node') return nodeProgram(args, places)
  if (program === 'npm') return npm(args)
  if (program === 'npx') return npx(args)
  if (/^(cuda|cpu|engine)_\w+_bench$/.test(basename(program))) return nativeBench(basename(program), args)
  if (program.startsWith('.ci/')) return ci(program, args)
  if (/^bench\/.*\.sh$/.test(program)) return shellBench(program)
  const reason = NOT_RUN[program.startsWith('.cmake/asan/fuzz/') ? 'fuzz' : program]
  if (reason === undefined) throw new Error(`'${words.join(' ')}' has no rule in test/docs/rules.ts`)
  checkPaths(args)
  return { argv: words, skip: reason }
}

const NOT_RUN: Record<string, string> = {
  cd: 'the folder is there',
  curl: 'test/lib/server sends the same request',
  docker: 'scripts/check-image.sh builds and runs the image',
  cmake: 'a build of its own: .ci/run builds with the same options (build, asan, fuzz)',
  fuzz: '.ci/run fuzz runs it',
  git: 'needs a network',
  nvcc: 'needs the CUDA toolkit; the build compiles the example where it is',
  nsys: 'of the CUDA toolkit, needs a GPU',
  ncu: 'of the CUDA toolkit, needs a GPU',
  'compute-sanitizer': 'of the CUDA toolkit, needs a GPU',
}

/** Options that CMake does not have would be ignored by it; files that are gone would fail. */
function checkPaths(args: string[]): void {
  const lists = readFileSync(join(ROOT, 'CMakeLists.txt'), 'utf8')
  for (const word of args) {
    const option = /^-D(MILLRACE_\w+)=/.exec(word)?.[1]
    if (option !== undefined && !lists.includes(option)) throw new Error(`CMakeLists.txt has no option ${option}`)
    if (/^(test|csrc|cuda|bench|examples|models)\//.test(word)) requirePath(word)
  }
}

function requirePath(path: string): void {
  if (!existsSync(join(ROOT, path))) throw new Error(`there is no ${path}`)
}

// ---- millrace

const EXPECTED: Record<string, RegExp> = {
  generate: /\S/,
  chat: /\S/,
  inspect: /^architecture +\w/m,
  cache: /^(folder +\/|removed \d+ files)/m,
  score: /^perplexity \d/m,
  plan: /^homes +\w/m,
  probe: /^CPU +\S/m,
  pull: /\/snapshots\/[0-9a-f]{40}/,
  ls: /^Qwen\/Qwen3-8B-AWQ +[\d.]+ MB/m,
  rm: /^removed Qwen\/Qwen3-8B-AWQ, [\d.]+ MB/m,
  models: /^llama3-8b, head of 4 bits +\S/m,
  doctor: /^ok +addon +\d/m,
  'bench decode': /^decode +[\d.]+ tok\/s/m,
  'bench prefill': /^prefill +[\d.]+ tok\/s/m,
  'bench drafts': /^undrafted +[\d.,]+ tok\/s[\s\S]*%$/m,
  'bench experts': /^decode +[\d.,]+ tok\/s[\s\S]*^plan +[\d.]+ tok\/s/m,
  'bench kernel': /read peak [\d.]+ GB\/s/,
}
const SMALLEST = 'millrace-demo'
/** The most that a toy takes; what is named nowhere is added. */
const MOST: Record<string, Record<string, number>> = {
  generate: { '--max-tokens': 4 },
  chat: { '--max-tokens': 4 },
  score: { '--window': 64 },
  'bench decode': { '--context': 24, '--prompt': 4, '--tokens': 2, '--batch': 1, '--runs': 1, '--threads': 1 },
  'bench prefill': { '--prompt': 8, '--batch': 1, '--runs': 1, '--threads': 1 },
  'bench drafts': { '--prompt': 8, '--tokens': 8, '--batch': 1, '--runs': 1, '--threads': 1 },
  'bench experts': { '--prompt': 4, '--tokens': 8, '--batch': 1, '--runs': 1, '--threads': 1 },
  'bench kernel': { '--repeats': 1, '--n': 2048, '--k': 2048, '--rows': 8, '--context': 256 },
}

function millrace(args: string[]): Trial {
  const name = args[0] === 'bench' ? args.slice(0, 2).join(' ') : (args[0] ?? '')
  // What these do is done by a GPU: their flags are looked up instead.
  // So are those of what runs until it is ended, and of what needs a file of requests.
  const served = name === 'serve' || name === 'batch'
  const onGpu =
    served || name === 'bench stream' || args.some((word) => ['--calibrate', '--cubin', '--kernel'].includes(word))
  if (onGpu || name === '' || args.includes('--help')) {
    const flags = args.filter((word) => /^--[a-z]/.test(word) && word !== '--help')
    const help = [/^Usage: millrace/m, ...flags.map((flag) => new RegExp(`^ +${flag}[ ,]`, 'm'))]
    return { argv: cli(...name.split(' ').filter(Boolean), '--help'), expected: help }
  }
  if (name === 'build') return { argv: ['millrace', 'build'], skip: 'a build of its own: npm run release is one' }
  if (!EXPECTED[name]) throw new Error(`'millrace ${args.join(' ')}' has no rule in test/docs/rules.ts`)
  const smallest = name === 'bench experts' ? 'millrace-demo-moe' : SMALLEST
  const toy = args.map((word, index) => {
    // Not kept in the repository: another of floats.
    if (word === 'demo-fp16') return 'models/stories260k'
    if (word.includes('models/')) return word.slice(word.indexOf('models/'))
    if (args[index - 1] === '--device') return word.replace(/cuda(:\d+)?/g, 'cpu')
    if (name.startsWith('bench ') && word in SHAPES) return smallest
    const most = MOST[name]?.[args[index - 1] ?? '']
    return most === undefined ? word : String(Math.min(Number(word), most))
  })
  for (const [flag, most] of Object.entries(MOST[name] ?? {})) {
    // A context is prompt and answer.
    const named = toy.includes(flag) || (flag === '--prompt' && toy.includes('--context')) || flag === '--context'
    // Attention has its sizes from a shape.
    const none = toy.includes('attention_decode') && (flag === '--n' || flag === '--k')
    if (!named && !none) toy.push(flag, String(most))
  }
  const bare = args.length === name.split(' ').length
  const model = bare && ['generate', 'inspect', 'score', 'chat', 'plan'].includes(name) ? ['models/demo'] : []
  const sized = ['bench decode', 'bench prefill', 'bench drafts', 'bench experts']
  const size = bare && sized.includes(name) ? [smallest] : []
  const json = toy.includes('--json')
  return {
    argv: cli(...toy, ...model, ...size),
    expected: [json ? /^[[{]/ : EXPECTED[name]!],
    input: 'Once upon a time there was a boat.\n',
  }
}

const cli = (...args: string[]) => [process.execPath, join(DIST, 'cli', 'main.js'), ...args]

// ---- Programs of this repository

/** What makes a bench small; the last one of an option counts. */
const TOYS: Record<string, (args: string[], places: Places) => { toy: string[]; expected: RegExp }> = {
  'bench/soak.mjs': (args) =>
    args.includes('--cycles')
      ? { toy: ['--cycles', '2', '--aborts', '20'], expected: /^2 loads and closes, 20 generations begun/m }
      : { toy: ['--seconds', '2', '--concurrent', '16', '--distinct', '8'], expected: /^2 s, 16 at once/m },
  'bench/node/event_loop.mjs': () => ({
    toy: ['--seconds', '0.5', '--limits', '60000,60000'],
    expected: /limits p99 < 60000 ms, max < 60000 ms: met/,
  }),
  'bench/node/codes.mjs': () => ({
    toy: ['--device', 'cpu', '--shape', SMALLEST, '--only', 'q6_k', '--copies', '1'],
    expected: /^q6_k .*right$/m,
  }),
  'bench/node/tokenizer.mjs': () => ({
    toy: ['--vocabulary', '500', '--long', '1000', '--runs', '5'],
    expected: /[\d.]+ ms/,
  }),
  'bench/node/constraint.mjs': () => ({
    toy: ['test/lib/constraint/schemas', 'models/demo'],
    expected: /^files that pass +100\.0 %/m,
  }),
  'bench/node/residency.mjs': (args) => ({
    toy: [
      ...['--device', 'cpu', '--shape', SMALLEST, '--models', '2', '--turns', '1'],
      ...['--sequences', '2', '--tokens', '8', '--seconds', '0.2', '--arena', '20MB', '--head', 'q4', '--chat', '64'],
    ],
    expected: args.includes('budget') ? /^texts equal: true/m : /first token (after|p50) [\d.]+/,
  }),
  'bench/node/file.mjs': (_, { temporary }) => ({
    toy: ['--device', 'cpu', '--shape', SMALLEST, '--share', '1', '--tokens', '4', '--folder', temporary],
    expected: /^[\d.e+]+ tok\/s(, \d+ % of the [\d.e+]+ that the disk allows|; the disk's rate: build .*)$/m,
  }),
  'bench/node/serve.mjs': (args) => ({
    toy: [
      ...['--device', 'cpu', '--streams', '4', '--tokens', '8', '--connections', '10', '--seconds', '1'],
      ...(args.includes('--shape') ? ['--shape', SMALLEST] : []),
    ],
    expected: args.includes('crowd') ? /^\d+ answers whole, 0 lost/m : /texts equal: true/,
  }),
  'bench/node/sampling.mjs': (args) => ({
    toy: [
      ...['--device', 'cpu', '--streams', '3', '--tokens', '8', '--rounds', '1'],
      ...(args.includes('--shape') ? ['--shape', SMALLEST] : []),
    ],
    expected: /^3 streams of 8 tokens, 1 rounds, all whole: true$/m,
  }),
  'bench/node/weights.mjs': () => ({
    toy: ['test/goldens/models/bf16-tied', 'README.md', '--window', '16', '--tokens', '40'],
    expected: /^q4 +error [\d.]+ % perplexity [\d.]+ /m,
  }),
  'bench/node/start.mjs': (_, { temporary }) => ({
    // Smaller models are not kept on disk.
    toy: [
      ...['--shape', 'smollm2-135m', '--layers', '1', '--runs', '1', '--device', 'cpu'],
      ...['--folder', join(temporary, 'start'), '--cache', join(temporary, 'start.cache')],
    ],
    expected: /^streamed, command: first text after \d+ ms/m,
  }),
  'bench/peer/llama_cpp.mjs': (rest, { peer }) => ({
    toy: [
      // Its rows are too narrow for types in blocks of 256.
      ...(rest.includes('--type') ? ['--type', 'q8_0'] : []),
      ...(rest.includes('--layers') ? ['--layers', '1'] : []),
      ...['--shape', SMALLEST, '--threads', '1', '--prompt', '4', '--tokens', '3', '--runs', '1', peer],
    ],
    expected: /^millrace +decode [\s\S]*^llama\.cpp +decode [\d.]+/m,
  }),
}

function nodeProgram(args: string[], places: Places): Trial {
  const [file = '', ...rest] = args
  if (file === 'scripts/check-package.mjs') {
    requirePath(file)
    return { argv: ['node', ...args], skip: '.ci/run package does' }
  }
  if (file === 'dist/cli/main.js') return millrace(rest)
  if (!TOYS[file]) throw new Error(`'node ${args.join(' ')}' has no rule in test/docs/rules.ts`)
  requirePath(file)
  if (rest.includes('--help')) return { argv: [process.execPath, file, '--help'], expected: [/node bench\//], file }
  const { toy, expected } = TOYS[file](rest, places)
  // What the toy says is not said twice; a path is where the reader has something.
  const kept = rest.filter((word, index) => !toy.includes(word) && !toy.includes(rest[index - 1]!) && word[0] !== '/')
  return { argv: [process.execPath, file, ...kept, ...toy], expected: [expected], file }
}

/** Those in bench/ that are no programs. */
export const SUPPORT: Record<string, string> = {
  'bench/program.mjs': 'what every bench in JavaScript begins with',
  'bench/node/watch.mjs': 'how late the timers of a thread are',
  'bench/node/vocabulary.mjs': 'a made-up vocabulary',
  'bench/texts/correct.txt': 'a prompt whose answer repeats it, for bench drafts',
  'bench/texts/summarise.txt': 'one whose answer does so in part',
  'bench/usage.h': 'what every bench in C++ says of itself',
  'bench/cuda/shapes.h': 'sizes of models for cuda_pass_bench, cuda_devices_bench and engine_step_bench',
}

function nativeBench(name: string, args: string[]): Trial {
  const [, folder, rest] = /^(cuda|cpu|engine)_(\w+)$/.exec(name)!
  const file = ['.cc', '.cu'].map((end) => `bench/${folder}/${rest}${end}`).find((path) => existsSync(join(ROOT, path)))
  if (file === undefined) throw new Error(`no source in bench/ makes ${name}`)
  const binary = join(ROOT, '.cmake', 'Release', 'bench', name)
  const skip = existsSync(binary)
    ? {}
    : { skip: `${name} is not built (MILLRACE_BENCH=ON, and CUDA where it needs it)` }
  if (rest === 'disk_bench') {
    const toy = ['--file', join(ROOT, 'package-lock.json'), '--threads', '1', '--rounds', '2']
    return {
      argv: [binary, ...args, ...toy],
      expected: [/^\d+ pieces of \d+ bytes, 1 threads: [\d.]+ GB\/s/m],
      file,
      ...skip,
    }
  }
  if (rest === 'expert_bench') {
    const toy = ['--hidden', '128', '--features', '128', '--rows', '1', '--threads', '1', '--megabytes', '1']
    return { argv: [binary, ...args, ...toy], expected: [/^ +1 rows: +[\d.]+ us an expert/m], file, ...skip }
  }
  if (folder === 'cpu') {
    const toy = ['--shapes', '64x64', '--rows', '1', '--threads', '1', '--megabytes', '1']
    return { argv: [binary, ...args, ...toy], expected: [/^\w+ +\w+ +64x64 +1 +1 /m], file, ...skip }
  }
  if (folder === 'engine') {
    const toy = ['--device', 'cpu', '--shape', 'toy', '--rows', '2', '--steps', '2']
    return { argv: [binary, ...args, ...toy], expected: [/^rows +2 one ahead \| host \d/m], file, ...skip }
  }
  // A GPU may be missing: its options are looked up. Those of the operation bench are names of operations besides.
  const words = args.filter(
    (word) => word.startsWith('--') || (name === 'cuda_linear_decode_bench' && /^[a-z]/.test(word)),
  )
  const known = words.map((word) => new RegExp(`[[|]${word}[\\] |]`))
  return { argv: [binary, '--help'], expected: [new RegExp(`^${name} `), ...known], file, ...skip }
}

function shellBench(file: string): Trial {
  requirePath(file)
  if ((statSync(join(ROOT, file)).mode & 0o100) === 0) throw new Error(`${file} cannot be executed`)
  return { argv: [join(ROOT, file), '--help'], expected: [/^Usage: /], file }
}

function ci(program: string, stages: string[]): Trial {
  requirePath(program)
  const text = ['.ci/stages.sh', program].map((path) => readFileSync(join(ROOT, path), 'utf8')).join('\n')
  const missing = stages.find((stage) => !text.includes(`\nstage_${stage}() {`))
  if (missing !== undefined) throw new Error(`${program} has no stage ${missing}`)
  if ((statSync(join(ROOT, program)).mode & 0o100) === 0) throw new Error(`${program} cannot be executed`)
  return { argv: ['bash', '-n', program, '.ci/stages.sh'] }
}

// ---- npm

const OF_NPM: Record<string, string> = {
  ci: '.ci/run build does',
  install: '.ci/run package installs the archive as a user does',
  pack: '.ci/run package packs',
  test: 'this is a part of it',
}

function npm(args: string[]): Trial {
  const [command = ''] = args
  const script = command === 'run' ? args[1]! : command
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  if (OF_NPM[command]) return { argv: ['npm', ...args], skip: OF_NPM[command] }
  if (!scripts[script]) throw new Error(`package.json has no script ${script}`)
  if (script === 'start') return { argv: ['npm', '--silent', ...args], expected: [/\w+ \w+ \w+/] }
  if (script === 'release') return { argv: ['npm', ...args], skip: '.ci/run package does' }
  if (script === 'lint' || script === 'format') return { argv: ['npm', ...args], skip: '.ci/run lint does' }
  if (script === 'build') return { argv: ['npm', ...args], skip: 'done before the tests' }
  throw new Error(`'npm ${args.join(' ')}' has no rule in test/docs/rules.ts`)
}

function npx(args: string[]): Trial {
  const [program, ...rest] = args
  if (program === 'millrace') return millrace(rest)
  if (program !== 'vitest' || rest[0] !== 'run')
    throw new Error(`'npx ${args.join(' ')}' has no rule in test/docs/rules.ts`)
  for (const path of rest.slice(1)) if (!path.startsWith('-')) requirePath(path)
  return { argv: ['npx', ...args], skip: 'npm test runs it' }
}
