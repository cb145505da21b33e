/**
 * Bundles the viewer: `node build.js` writes the script that Python ships and the module of the npm package.
 *
 * The worker and the style are bundled first, and put into the rest as texts.
 */

import { build, transform } from 'esbuild'
import { readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { minify } from 'terser'

const here = fileURLToPath(new URL('.', import.meta.url))
/** What `vqrf export` and `vqrf view` put into their pages. */
const PAGE_SCRIPT = '../src/vqrf/rendering/page/viewer.js'
const MODULE = 'dist/vqrf-viewer.js'
const CLASSIC = 'dist/vqrf-viewer.classic.js'

/**
 * Texts in the sources are nothing to esbuild, which does not minify them: this takes out blanks at the start of lines and, in
 * shaders, around operators, where neither language needs them.
 *
 * @type {import('esbuild').Plugin}
 */
const DENSE = {
  name: 'dense',
  setup({ onLoad }) {
    onLoad({ filter: /\.js$/ }, async ({ path }) => {
      const text = (await readFile(path, 'utf8')).replace(/^ +/gm, '')
      for (const [word, name] of text.matchAll(/'(\w+)' in /g)) {
        if (OWN_NAMES.includes(name)) throw new Error(`${path}: ${word}asks for a name that is another in a bundle`)
      }
      const withUniforms = /(shaders|renderer)\.js$/.test(path) ? text.replace(/\bu([A-Z])[a-z]+([A-Z])?[a-z]*/g, 'u$1$2') : text
      return { contents: path.endsWith('shaders.js') ? renamed(densified(withUniforms)) : await withNumbers(withUniforms) }
    })
  },
}

/** Where TypeScript has what browsers have, the numbers of WebGL's constants among it. */
const OF_BROWSERS = `node_modules/@typescript/typescript-${process.platform}-${process.arch}/lib/lib.dom.d.ts`

/**
 * With numbers for the constants of WebGL, as the standard has them, in place of their long names.
 *
 * @param {string} text
 */
async function withNumbers(text) {
  const declared = (await readFile(here + OF_BROWSERS, 'utf8')).matchAll(/^ +readonly ([A-Z][A-Z_\d]+): (0x[\dA-F]+);$/gm)
  const numbers = new Map(Array.from(declared, ([, name, number]) => [name, Number(number)]))
  return text.replace(/\bgl\.([A-Z][A-Z_\d]+)/g, (_, name) => {
    if (!numbers.has(name)) throw new Error(`WebGL has no ${name}`)
    return String(numbers.get(name))
  })
}

/** @param {string} text */
function densified(text) {
  return text
    .replace(/^\/\*.*\*\/\n/gm, '')
    .replace(/ (=|[-+*<>=!]=|[-+*/<>?:&|]|&&|\|\||<<|>>) /g, '$1')
    .replace(/(\d\.)0\b|(?<![\w.])0(?=\.\d)/g, '$1')
    .replace(/([,;]) (?=.)| (?=[({]$|\{ )|(?<=\b(?:for|if|while)) (?=\()/gm, '$1')
    .replace(/(?<=[(){}]) (?=\w)/g, '')
}

/** Words of shaders that no property of JavaScript beside them is called. */
const OFTEN = [
  ...['ahead', 'beyond', 'cell', 'column', 'corner', 'direction', 'due', 'encoded', 'enter', 'far', 'home', 'info', 'last'],
  ...['leave', 'leaving', 'level', 'logit', 'next', 'parts', 'piece', 'place', 'planes', 'queue', 'queued', 'rise', 'sides', 'start'],
  ...['stride', 'texel', 'turn', 'until', 'upcoming', 'inwards', 'reach', 'side', 'rest', 'pace', 'steps'],
  ...['follow', 'face', 'meet', 'prepare', 'block', 'light', 'sum', 'total', 'axis', 'curve'],
]

/**
 * How often there are words, the most frequent first.
 *
 * @param {string[]} words
 */
function mostFirst(words) {
  /** @type {Map<string, number>} */
  const times = new Map()
  for (const word of words) times.set(word, (times.get(word) ?? 0) + 1)
  return [...times].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))
}

/**
 * With short names for what shaders call their own: what has an underscore in it, as no name of JavaScript's has here, and some words
 * that they use often.
 *
 * @param {string} text
 */
function renamed(text) {
  /** @type {Map<string, string>} */
  const names = new Map()
  const unused = LETTERS.flatMap((letter) => [letter, letter.toUpperCase()]).filter((letter) => !new RegExp(`\\b${letter}\\b`).test(text))
  const words = new RegExp(`\\b(?!gl_)([a-z]+(_[a-z]+)+|${OFTEN.join('|')})\\b`, 'g')
  for (const [name] of mostFirst(text.match(words) ?? [])) names.set(name, unused.shift() ?? `_${names.size.toString(36)}`)
  return text.replace(words, (name) => /** @type {string} */ (names.get(name)))
}

/**
 * Long names of our own that nobody outside of a bundle uses; the worker's bundle and the rest have to call them alike, since
 * they send each other objects.
 */
const OWN_NAMES = [
  ...['activation', 'alphaThreshold', 'bricks', 'canAccumulate', 'changed', 'codebookSize', 'coefficients'],
  ...['createTarget', 'deleteTarget', 'densities', 'densityBias', 'densityRange', 'direct', 'emptyDensity'],
  ...['expectRaw', 'extent', 'featureFrequencies', 'featureOffset', 'features', 'featureScale', 'floats'],
  ...['framesPerSecond', 'hashListener', 'hashTimer', 'hasMoved', 'isHere', 'isOnScreen'],
  ...['isRefreshing', 'isVisible', 'items', 'lastFrame', 'lastMove', 'lastRate', 'lastTick', 'layers', 'levels'],
  ...['loading', 'magnitudes', 'march', 'maxSide', 'measureDistances', 'nCoded', 'nKept', 'numbers', 'occupyAround', 'onColour'],
  ...['partition', 'placeBricks', 'pointers', 'refill', 'refreshTimer', 'refuse', 'resolution', 'setField'],
  ...['stepWorld', 'stored', 'surface', 'table', 'takeViewFromAddress', 'textures', 'there', 'wakeListener', 'warmUp'],
  ...['weight', 'words', 'announce', 'awaiting', 'begun', 'controls', 'describe', 'distances', 'drawMoving'],
  ...['drawResting', 'focusOn', 'graphics', 'isAway', 'isPageScrolling', 'isTaken', 'isWarning', 'keepViewInAddress'],
  ...['manners', 'onPointed', 'onRefused', 'onTouched', 'panels', 'pitches', 'pointers', 'refreshNow', 'resizeNext', 'said'],
  ...['setBackground', 'setPlaying', 'setRefresh', 'setSeen', 'showBar', 'showPoster', 'startTurning', 'still', 'takeNext'],
  ...['advance', 'events', 'radius', 'center', 'interval', 'running', 'settle', 'truncated', 'expect'],
  ...['uploadLayers', 'compose', 'prepare', 'compile', 'flight', 'lastRate', 'deleteTarget', 'createTarget'],
  ...['limits', 'pieces', 'sides', 'shown', 'half', 'sizes', 'sights', 'part', 'say', 'tell'],
  ...['section', 'reason', 'offset', 'shading', 'texture', 'density', 'request', 'restore', 'codes', 'kept', 'nodes', 'parents', 'fit', 'tick', 'measure'],
  ...['approach', 'bias', 'blocks', 'cells', 'crc', 'decoded', 'fast', 'held', 'home', 'isStill', 'middle', 'opened'],
  ...['plan', 'raw', 'slow', 'yaws', 'frame', 'spin', 'tree', 'uniform', 'isArriving', 'isGlimpse', 'follow', 'steer', 'stand', 'fromWorld', 'isFlying', 'press'],
  ...['wake', 'channels', 'stackSteps', 'stacks', 'basis', 'columns', 'upload', 'resized'],
  ...['groups', 'isUnbounded', 'isCoarse', 'onCoarse', 'expectLeft', 'places', 'plane', 'seen', 'span', 'wide', 'zero'],
  ...['timers', 'toWorld', 'turned', 'turning', 'viewKey', 'writeView', 'onFrame', 'onMove', 'onLost', 'onFail', 'losses'],
]
/** In the order in which names of one letter are given out, to all scripts alike: what recurs is cheap to pack. */
const LETTERS = [...'etniorsalcudhpmfgvbwyxkjqz']
/** Those that browsers call no property. */
const OF_PROPERTIES = LETTERS.filter((letter) => !'cgnxy'.includes(letter))
const STARTS = [...LETTERS, ...LETTERS.map((letter) => letter.toUpperCase())]
const OF_VARIABLES = [...STARTS, ...STARTS.flatMap((first) => [...STARTS, ...'0123456789'].map((second) => first + second))].filter(
  (name) => !['as', 'do', 'if', 'in', 'is', 'of'].includes(name),
)

/** Short names for them, the shortest for those that are there most often. */
async function shortNames() {
  const folder = fileURLToPath(new URL('src/', import.meta.url))
  const texts = await Promise.all((await readdir(folder)).map((name) => readFile(folder + name, 'utf8')))
  const words = texts.join('\n').match(/[a-zA-Z]+/g) ?? []
  const names = mostFirst([...words.filter((word) => OWN_NAMES.includes(word)), ...OWN_NAMES])
  // Two letters that the sources have somewhere may be the name of a property of a browser.
  const pairs = OF_PROPERTIES.flatMap((first) => OF_PROPERTIES.map((second) => first + second)).filter((pair) => !words.includes(pair))
  return Object.fromEntries(names.map(([name], i) => [name, [...OF_PROPERTIES, ...pairs][i]]))
}

/** @type {import('esbuild').BuildOptions} */
const COMMON = {
  plugins: [DENSE],
  absWorkingDir: here,
  bundle: true,
  charset: 'utf8',
  mangleProps: new RegExp(`^(${OWN_NAMES.join('|')})$`),
  legalComments: 'none',
  target: ['es2022'],
  write: false,
}

/**
 * With constants before all else: only there esbuild takes them for such, and writes numbers where they are used.
 *
 * @param {string} text a bundle
 */
function constantsFirst(text) {
  /** @type {Map<string, string>} numbers, and what is computed from nothing else */
  const constants = new Map()
  const rest = text.replace(/^ *var ([A-Z][A-Z_0-9]*) = ([-A-Z_0-9.e*/()<+ ]+);$/gm, (line, name, value) => {
    if ((value.match(/[A-Z][A-Z_0-9]*/g) ?? []).some((/** @type {string} */ other) => !constants.has(other))) return line
    constants.set(name, value)
    return ''
  })
  const isComputed = (/** @type {[string, string]} */ [, value]) => +Number.isNaN(Number(value))
  const first = [...constants].sort((a, b) => isComputed(a) - isComputed(b)).map(([name, value]) => `const ${name} = ${value};`)
  const shorter = rest.replace(/^( *|.*for \()const (?!ivec3)/gm, '$1let ')
  return shorter.replace(/^(?:"use strict";\n)?(\(\(\) => \{\n)?/, (_, start = '') => [start, ...first].join('\n'))
}

/** @param {import('esbuild').BuildOptions} options */
async function bundle(options) {
  const { outputFiles } = await build({ ...COMMON, mangleCache: await shortNames(), ...options })
  const text = outputFiles?.[0].text ?? ''
  return options.format ? shortened(constantsFirst(text), options.format === 'esm') : packed(text, { loader: 'css' })
}

/**
 * Ends of lines are left in texts alone, where shaders, style and markup can do without most of them.
 *
 * @param {string} text
 * @param {import('esbuild').TransformOptions} options
 */
async function packed(text, options) {
  const { code } = await transform(text, { ...options, minify: true, charset: 'utf8' })
  return code.replace(/([;{},>])\n+(?=.)/g, '$1')
}

/**
 * A script in few bytes. esbuild folds constants; terser gives local names anew, scope by scope alike, which saves a server 3 %.
 *
 * @param {string} text
 * @param {boolean} module
 */
async function shortened(text, module) {
  const folded = await packed(text, { loader: 'js', format: module ? 'esm' : undefined })
  const compress = { ecma: /** @type {const} */ (2020), passes: 3, inline: false, reduce_vars: false, sequences: false, pure_getters: true }
  const mangle = { nth_identifier: { get: (/** @type {number} */ n) => OF_VARIABLES[n] } }
  return (await minify(folded, { ecma: 2020, module, compress, mangle })).code ?? ''
}

/** @returns {Promise<Record<string, string>>} texts of the bundles, by path from this folder */
export async function bundles() {
  const worker = await bundle({ entryPoints: ['src/worker.js'], format: 'iife' })
  const style = await bundle({ entryPoints: ['src/element.css'] })
  const define = { WORKER_SOURCE: JSON.stringify(worker), STYLE_SOURCE: JSON.stringify(style) }
  return {
    [PAGE_SCRIPT]: await bundle({ entryPoints: ['src/page.js'], format: 'iife', define }),
    [MODULE]: await bundle({ entryPoints: ['src/element.js'], format: 'esm', define }),
    [CLASSIC]: await bundle({ entryPoints: ['src/element.js'], format: 'iife', define }),
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { mkdirSync, writeFileSync } = await import('node:fs')
  const { dirname, join } = await import('node:path')
  for (const [path, text] of Object.entries(await bundles())) {
    mkdirSync(dirname(join(here, path)), { recursive: true })
    writeFileSync(join(here, path), text)
    console.log(`${path}: ${Buffer.byteLength(text)} bytes`)
  }
}
