/**
 * What a file says of itself to people: the object `about` of its metadata, as FORMAT.md section 3 bounds it.
 *
 * Text of strangers: shown as text alone. A part that is wrong is as if it were not there.
 */

const MAX_CHARACTERS = 300
const MAX_COORDINATE = 2 ** 40
const MAX_POSTER_BYTES = 16384
const MAX_POSTER_SIDE = 512
/** Control and format characters, halves of pairs, separators of lines. */
const NO_TEXT = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u

/** @typedef {[number, number, number]} Vector */

/**
 * @typedef {object} About
 * @property {string} title empty where nothing is said, as the others
 * @property {string} author
 * @property {string} licence
 * @property {string} description
 * @property {Vector | undefined} up
 * @property {{ position: Vector, target: Vector } | undefined} view
 * @property {[number, number] | undefined} distance
 * @property {[number, number] | undefined} pitch in degrees
 * @property {[number, number] | undefined} yaw away from the first view, in degrees
 * @property {string | undefined} poster a data URL
 */

/**
 * What a file says, and where it does not, what its space says of the view.
 *
 * @param {About} about
 * @param {import('./front.js').Home} [home]
 */
export function amid(about, home) {
  if (!home) return about
  const { up = home.up, view = home.view, distance = home.distance, yaw = home.yaw } = about
  const pitch = about.pitch ?? (about.up || about.view ? undefined : home.pitch)
  return { ...about, up, view, distance, pitch, yaw, frame: home.frame }
}

/** @param {unknown} value @returns {Record<string, unknown>} */
const objectOf = (value) => (value && typeof value === 'object' && !Array.isArray(value) ? /** @type {any} */ (value) : {})

/** @param {unknown} value */
const textOf = (value) => {
  return typeof value === 'string' && [...value].length <= MAX_CHARACTERS && !NO_TEXT.test(value) ? value : ''
}

/**
 * @template {number[]} T
 * @param {unknown} value
 * @param {number} n
 * @param {(numbers: number[]) => boolean} isRight
 * @returns {T | undefined}
 */
export function numbersOf(value, n, isRight) {
  const isNumbers = Array.isArray(value) && value.length === n && value.every((x) => typeof x === 'number' && Math.abs(x) <= MAX_COORDINATE)
  return isNumbers && isRight(value) ? /** @type {any} */ (value) : undefined
}

/** @param {number[]} numbers */
export const isDistances = ([least, most]) => least > 0 && least <= most
/** @param {number[]} numbers */
export const isPitches = ([least, most]) => least >= -90 && least <= most && most <= 90
/** @param {number[]} numbers */
const isYaws = ([least, most]) => least >= -180 && least <= 0 && 0 <= most && most <= 180
const isAny = () => true

/** @param {unknown} value */
function viewOf(value) {
  const { position, target } = objectOf(value)
  /** @type {Vector | undefined} */
  const from = numbersOf(position, 3, isAny)
  /** @type {Vector | undefined} */
  const to = numbersOf(target, 3, isAny)
  const isView = from && to && Math.hypot(...from.map((x, axis) => x - to[axis])) >= 1 / MAX_COORDINATE
  return isView ? { position: from, target: to } : undefined
}

/**
 * A lossy WebP of few pixels as a data URL: its sides are read before a browser decodes it.
 *
 * @param {unknown} value
 */
function posterOf(value) {
  if (typeof value !== 'string' || value.length > MAX_POSTER_BYTES * 1.4) return undefined
  let bytes
  try {
    bytes = atob(value)
  } catch {
    return undefined
  }
  const side = (/** @type {number} */ at) => (bytes.charCodeAt(at) | (bytes.charCodeAt(at + 1) << 8)) & 0x3fff
  const isWebp = bytes.startsWith('RIFF') && bytes.startsWith('WEBPVP8 ', 8) && bytes.startsWith('\x9d\x01\x2a', 23)
  const isSmall = bytes.length >= 30 && bytes.length <= MAX_POSTER_BYTES && Math.max(side(26), side(28)) <= MAX_POSTER_SIDE
  return isWebp && isSmall && side(26) && side(28) ? `data:image/webp;base64,${btoa(bytes)}` : undefined
}

/**
 * @param {unknown} metadata
 * @returns {About}
 */
export function aboutOf(metadata) {
  const { about, training } = objectOf(metadata)
  const said = objectOf(about)
  const isDirection = (/** @type {number[]} */ v) => Math.hypot(...v) > 1e-6
  return {
    title: textOf(said.title),
    author: textOf(said.author),
    licence: textOf(said.licence),
    description: textOf(said.description),
    up: numbersOf(said.up, 3, isDirection) ?? numbersOf(objectOf(training).up, 3, isDirection),
    view: viewOf(said.view),
    distance: numbersOf(said.distance, 2, isDistances),
    pitch: numbersOf(said.pitch, 2, isPitches),
    yaw: numbersOf(said.yaw, 2, isYaws),
    poster: posterOf(said.poster),
  }
}

/**
 * The poster of a file of which only the beginning may be there. Nothing else is checked: whoever decodes the file does, and refuses it.
 *
 * @param {Uint8Array} bytes
 * @returns {string | undefined} a data URL; nothing as long as it is not there whole
 */
export function earlyPoster(bytes) {
  // Within a text of JSON such marks would stand behind a backslash. The poster comes before the view, which is an object too.
  return posterOf(/"about":\{[^{}]*"poster":"([^"]*)"/.exec(new TextDecoder('latin1').decode(bytes))?.[1])
}
