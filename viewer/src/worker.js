/** Decodes and makes textures, away from the page's thread. */

import { decode, FormatError } from './decode.js'
import { drawingFault, valuesFault } from './limits.js'
import { makeTextures, TooLarge } from './textures.js'

/**
 * @typedef {object} About
 * @property {number} bytes
 * @property {{ name: string, bytes: number }[]} sections
 * @property {Record<string, unknown> | undefined} metadata
 * @property {number} decodeMs
 * @property {number} texturesMs
 */

/** @typedef {import('./decode.js').Head & About} Said what there is to say about a file */

/**
 * @typedef {{ drawn: import('./textures.js').Drawn, said: Said }} Loaded
 * @typedef {{ early: import('./decode.js').Head & import('./decode.js').Colour }} Early sent first: what is known before the voxels
 * @typedef {{ error: { message: string, section?: string } }} Failed
 * @typedef {Early | Loaded | Failed} Answer
 */

/** The file is whole, and nothing can be drawn of it. */
class Undrawable extends Error {}

/** @type {any} */
const scope = globalThis

/**
 * @typedef {object} Task
 * @property {Uint8Array} bytes of a file
 * @property {number} maxSide of a 3-D texture
 * @property {boolean} truncated whether it may be the beginning of a file
 */

/**
 * @param {Task} task
 * @returns {Loaded}
 */
function load({ bytes, maxSide, truncated }) {
  const start = performance.now()
  const expect = (/** @type {string | undefined} */ fault) => {
    if (fault) throw new Undrawable(`The file is whole, but cannot be drawn: ${fault}`)
  }
  const onColour = (/** @type {Early['early']} */ early) => {
    expect(drawingFault(early))
    scope.postMessage({ early })
  }
  const field = decode(bytes, { onColour, truncated })
  const decoded = performance.now()
  const drawn = makeTextures(field, maxSide)
  expect(valuesFault(drawn))
  const { head, sections, metadata } = field
  const [decodeMs, texturesMs] = [decoded - start, performance.now() - decoded]
  return { drawn, said: { ...head, bytes: bytes.length, sections, metadata, decodeMs, texturesMs } }
}

/** @param {unknown} error @returns {Failed} */
function failure(error) {
  if (error instanceof FormatError) return { error: { message: error.message, section: error.section } }
  if (error instanceof TooLarge || error instanceof Undrawable) return { error: { message: error.message } }
  if (error instanceof RangeError) return { error: { message: 'there is not enough memory for this field' } }
  throw error
}

scope.onmessage = (/** @type {MessageEvent<Task>} */ { data }) => {
  try {
    const loaded = load(data)
    const { drawn } = loaded
    scope.postMessage(loaded, [drawn.table.buffer, drawn.density.buffer, ...drawn.features.map((group) => group.buffer)])
  } catch (error) {
    scope.postMessage(failure(error))
  }
}
