/** Decodes and makes textures, away from the page's thread. */

import { decode, FormatError } from './decode.js'
import { drawingFault, valuesFault } from './limits.js'
import { productsOf, thinned } from './planes.js'
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

/** Of planes and lines with more products than these, which take half a second, coarser fields are shown first: one of so many voxels. */
const FEW_PRODUCTS = 2 ** 30
const STRIDES = [4, 2]

/** Coefficients of a pyramid that take a second: without its finest level, it is shown first. */
const MANY = 2 ** 23

/** @type {any} */
const scope = globalThis

/**
 * @typedef {object} Task
 * @property {Uint8Array} bytes of a file
 * @property {number} maxSide of a 3-D texture
 * @property {boolean} truncated whether it may be the beginning of a file
 */

/** @param {Task} task */
function load({ bytes, maxSide, truncated }) {
  let start = performance.now()
  const expect = (/** @type {string | undefined} */ fault) => {
    if (fault) throw new Undrawable(`The file is whole, but cannot be drawn: ${fault}`)
  }
  const onColour = (/** @type {Early['early']} */ early) => {
    expect(drawingFault(early))
    scope.postMessage({ early })
  }
  let decoded = start
  /** @param {import('./decode.js').CompressedField} shown */
  const send = (shown) => {
    const drawn = makeTextures(shown, maxSide)
    expect(valuesFault(drawn))
    const { head, sections, metadata } = shown
    const [decodeMs, texturesMs] = [decoded - start, performance.now() - decoded]
    const said = { ...head, bytes: bytes.length, sections, metadata, decodeMs, texturesMs }
    const buffers = [drawn.table, drawn.density, ...drawn.features].map(({ buffer }) => buffer)
    scope.postMessage({ drawn, said }, buffers)
  }
  /** @param {import('./decode.js').Common & import('./pyramid.js').Pyramid} field */
  const onCoarse = (field) => {
    if (field.head.nCoded * field.steps.length < MANY) return
    const begun = performance.now()
    send(field)
    start += performance.now() - begun
  }
  const field = decode(bytes, { onColour, onCoarse, truncated })
  decoded = performance.now()
  if ('mix' in field && productsOf(field) > FEW_PRODUCTS) {
    for (const stride of STRIDES) if (Math.min(...field.shape) > stride) send(thinned(field, stride))
  }
  send(field)
}

/** @param {unknown} error @returns {Failed} */
function failure(error) {
  if (error instanceof RangeError) return { error: { message: 'there is not enough memory for this field' } }
  if (!(error instanceof FormatError || error instanceof TooLarge || error instanceof Undrawable)) throw error
  const { message, section } = /** @type {FormatError} */ (error)
  return { error: { message, section } }
}

scope.onmessage = (/** @type {MessageEvent<Task>} */ { data }) => {
  try {
    load(data)
  } catch (error) {
    scope.postMessage(failure(error))
  }
}
