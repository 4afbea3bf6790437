// npm run release: leaves in release/ the tarballs of millrace and of this platform's addon, and checks them.
//
//   --cuda ON|OFF            whether the addon has CUDA; ON by default, for all architectures
//   --architectures <list>   as MILLRACE_CUDA_ARCHITECTURES: fewer are built sooner, for tests
//   --built                  what `npm run build` has compiled, with whatever CUDA that was: seconds, for tests
//
// millrace depends on the platform packages whose tarballs of the same version lie in release/: bring those of other
// machines there first.
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { command, ROOT, SetupError, say, TREE } from './build-native.mjs'
import { checkAddon, FLOOR } from './check-addon.mjs'

export const RELEASE = join(ROOT, 'release')
const STAGE = join(ROOT, '.cmake', 'packages')
const RELEASE_TREE = join(ROOT, '.cmake', 'All')
const PLATFORMS = ['linux-x64', 'linux-arm64']
const ALL = '75-real;80-real;86-real;89-real;90-real;100-real;120'

function run(file, args, options = {}) {
  const { status, error } = spawnSync(file, args, { cwd: ROOT, stdio: ['ignore', 2, 2], ...options })
  if (error) throw error
  if (status !== 0) throw new SetupError(`${file.split('/').at(-1)} ${args[0]} failed; what it printed is above.`)
}

const readManifest = () => JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))

function stage(name, manifest, files) {
  const folder = join(STAGE, name)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  for (const path of files) cpSync(join(ROOT, path), join(folder, path), { recursive: true })
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
  return folder
}

function pack(folder) {
  mkdirSync(RELEASE, { recursive: true })
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', RELEASE]
  const [{ filename }] = JSON.parse(execFileSync('npm', args, { cwd: folder, encoding: 'utf8' }))
  const file = join(RELEASE, filename.replace('@', '').replace('/', '-'))
  say(`${file}: ${(statSync(file).size / 1e6).toFixed(2)} MB`)
  return file
}

const tarballOf = (platform, version) => join(RELEASE, `millrace-${platform}-${version}.tgz`)

/** The package of this platform's addon. */
function packAddon({ version, license, author, repository, homepage, bugs, engines }, { cuda, architectures, built }) {
  const platform = `${process.platform}-${process.arch}`
  if (!PLATFORMS.includes(platform)) throw new SetupError(`there is no package for ${platform}.`)
  const manifest = {
    name: `@millrace/${platform}`,
    version,
    description: `The native side of millrace for ${platform} with glibc`,
    license,
    author,
    repository,
    homepage,
    bugs,
    engines,
    os: [process.platform],
    cpu: [process.arch],
    libc: ['glibc'],
    files: ['prebuilds'],
    publishConfig: { access: 'public' },
  }
  const folder = stage(platform, manifest, ['LICENSE'])
  writeFileSync(
    join(folder, 'README.md'),
    `The native side of [millrace](${homepage}) for ${platform} with glibc ${FLOOR} or newer, which \`npm install millrace\` brings.\n`,
  )
  run(
    process.execPath,
    [
      join(ROOT, 'node_modules', 'prebuildify', 'bin.js'),
      ...['--napi', '--strip', '--tag-libc', '--name', 'millrace', '--cwd', folder],
    ],
    {
      env: {
        ...process.env,
        PREBUILD_NODE_GYP: join(ROOT, 'scripts', 'node-gyp.mjs'),
        MILLRACE_TREE: built ? TREE : RELEASE_TREE,
        ...(built ? {} : { MILLRACE_CUDA: cuda, MILLRACE_CUDA_ARCHITECTURES: architectures }),
      },
    },
  )
  const addon = join(folder, 'prebuilds', platform, 'millrace.glibc.node')
  for (const line of checkAddon(addon)) say(line)
  return pack(folder)
}

/** The package of everything else. */
function packMain({ devDependencies: _, ...manifest }) {
  const { version } = manifest
  const platforms = PLATFORMS.filter((platform) => existsSync(tarballOf(platform, version)))
  const published = {
    ...manifest,
    // Nothing runs at installation.
    scripts: {},
    optionalDependencies: Object.fromEntries(platforms.map((platform) => [`@millrace/${platform}`, version])),
  }
  const files = [...manifest.files, 'README.md', 'LICENSE', 'CHANGELOG.md'].filter((path) =>
    existsSync(join(ROOT, path)),
  )
  const folder = stage('millrace', published, [...new Set(files)])
  return pack(folder)
}

await command(() => {
  const { values } = parseArgs({
    options: {
      cuda: { type: 'string', default: 'ON' },
      architectures: { type: 'string', default: ALL },
      built: { type: 'boolean', default: false },
    },
  })
  if (!['ON', 'OFF'].includes(values.cuda)) throw new SetupError(`--cuda is ON or OFF, not ${values.cuda}.`)
  const manifest = readManifest()
  // `npm run build` has just made it.
  if (!values.built || !existsSync(join(ROOT, 'dist', 'index.js')))
    run(process.execPath, [join(ROOT, 'node_modules', 'tsdown', 'dist', 'run.mjs'), '--logLevel', 'warn'])
  const addon = packAddon(manifest, values)
  const main = packMain(manifest)
  process.stdout.write(`${main}\n${addon}\n`)
})
