/**
 * A pyramid: whole numbers on levels of nodes, coarse to fine, which add up to density and features.
 *
 * Written from FORMAT.md: section 4 for what nodes and their parents are, section 6 for how a level is coded. Safe for untrusted
 * input like the rest of the decoder; the numbers of nodes are held against the lengths that the file states before a level is made.
 */

import { expectRaw } from './container.js'
import { classes, Damaged, PRUNED, RangeDecoder, walk } from './entropy.js'

/**
 * One level.
 *
 * @typedef {object} Level
 * @property {number[]} shape places along X, Y, Z
 * @property {Uint8Array} there not 0 where there is a node
 * @property {number} n nodes
 * @property {Int16Array} coefficients [N, 1 + V]
 * @property {Int32Array} magnitudes [N, 1 + ceil(V / 3)] of the coefficients, cut off, as contexts see them: of density in ten bits,
 *   with the sum of the latents' above; then of the latents, ten bits each
 */

/**
 * @typedef {object} Pyramid
 * @property {Uint8Array} partition
 * @property {Float32Array} steps [1 + V]
 * @property {Float32Array | undefined} basis [V,C]
 * @property {Level[]} levels coarsest first
 */

/**
 * @typedef {object} Coarse what a field without its finest level has that is not the file's
 * @property {[number, number, number]} shape
 * @property {number} nCoded
 * @property {number[]} cells that lie between the file's `lo` and `hi`, half ones too
 */

const MAX_LATENTS = 64
/** What contexts do not see beyond. */
const CUT = 15
/** Magnitudes that are counted up; greater ones have a gamma code. */
const UNARY = 14
const GAMMA_BITS = 13
const FACE_WEIGHT = 8
const EDGE_WEIGHT = 3
const NEAR_LIMITS = [1, 4, 8, 12, 16, 24, 32, 44, 60, 84, 120, 170, 250]
const NEAR_CLASSES = 14
/**
 * Contexts of a channel: whether it is 0, whether it is above 1, whether it is above 2 and so on, whether it is negative, and of a
 * gamma code whether it ends here and its highest bit but the first.
 */
const ABOVE_ONE = 5 * NEAR_CLASSES
const ABOVE_TWO = ABOVE_ONE + NEAR_CLASSES
const NEGATIVE = ABOVE_TWO + UNARY
const GAMMA = NEGATIVE + 4 * 4 * 3
const CHANNEL_CONTEXTS = GAMMA + 2 * GAMMA_BITS
const NEAR_MAX = 250

/** The class of each sum of magnitudes around a node; greater sums have the last. */
const CLASS = classes(NEAR_MAX + 1, NEAR_LIMITS)

/** A weighted sum of magnitudes has ten bits: it is at most 15 (3 * 8 + 6 * 3 + 8), and three fit in a number. */
const SUM_BITS = 10
const SUM_MASK = 1023
const WORD_BITS = 3 * SUM_BITS

/** @param {number} sum */
const classOf = (sum) => CLASS[sum < NEAR_MAX ? sum : NEAR_MAX]

/** @param {readonly number[]} shape of a level; gives that of the next coarser one */
const coarser = (shape) => shape.map((side) => (side >> 1) + 1)

/** @param {readonly number[]} shape */
export const placesOf = ([x, y, z]) => x * y * z

/**
 * What levels above the finest add to the working memory of a lattice: FORMAT.md section 2.
 *
 * @param {readonly number[]} shape
 * @param {number} nLevels
 */
export function workingBytesOfLevels(shape, nLevels) {
  let bytes = 0
  for (let level = 1; level < nLevels; level++) {
    shape = coarser(shape)
    bytes += placesOf(shape) * (level > 1 ? 1 : 5)
  }
  return bytes
}

/** Finds the parents of a place, each once: two along an axis where the place is odd, else one. */
class Parents {
  /**
   * @param {readonly number[]} above shape of the coarser level
   * @param {Int32Array} [numbers] of its nodes; without it, parents are places
   */
  constructor([, ny, nz], numbers) {
    this.row = nz
    this.plane = ny * nz
    this.numbers = numbers
    this.found = new Int32Array(8)
    /** How many were found. Of the eight that FORMAT.md counts, each is 8 / n. */
    this.n = 0
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} z
   */
  of(x, y, z) {
    const { row, plane, numbers, found } = this
    let n = 0
    for (let i = x >> 1; i <= (x + 1) >> 1; i++) {
      for (let j = y >> 1; j <= (y + 1) >> 1; j++) {
        for (let k = z >> 1; k <= (z + 1) >> 1; k++) {
          const at = i * plane + j * row + k
          found[n++] = numbers ? numbers[at] : at
        }
      }
    }
    this.n = n
    return found
  }
}

/**
 * Visit the nodes of a level, or the voxels of a lattice, in raster order.
 *
 * @param {{ shape: readonly number[], there: Uint8Array }} level
 * @param {(node: number, x: number, y: number, z: number, kind: number) => void} visit `kind` is what `there` has
 */
export function eachNode({ shape: [X, Y, Z], there }, visit) {
  let place = 0
  let node = 0
  for (let x = 0; x < X; x++) {
    for (let y = 0; y < Y; y++) {
      for (let z = 0; z < Z; z++, place++) if (there[place]) visit(node++, x, y, z, there[place])
    }
  }
}

/**
 * @param {readonly number[]} shape
 * @param {Uint8Array} there
 * @param {number} n
 * @returns {Level} nothing is known of its coefficients
 */
const newLevel = (shape, there, n) => ({
  ...{ shape: [...shape], there, n },
  ...{ coefficients: new Int16Array(0), magnitudes: new Int32Array(0) },
})

/**
 * @param {Uint8Array} there of the finest level
 * @param {readonly number[]} shape
 * @param {number} n nodes of the finest level
 * @param {number} nLevels
 * @returns {Level[]} coarsest first
 */
function findNodes(there, shape, n, nLevels) {
  const levels = [newLevel(shape, there, n)]
  while (levels.length < nLevels) {
    const [below] = levels
    const above = coarser(below.shape)
    const thereAbove = new Uint8Array(placesOf(above))
    const parents = new Parents(above)
    let nAbove = 0
    eachNode(below, (_node, x, y, z) => {
      const found = parents.of(x, y, z)
      for (let p = 0; p < parents.n; p++) {
        if (!thereAbove[found[p]]) nAbove++
        thereAbove[found[p]] = 1
      }
    })
    levels.unshift(newLevel(above, thereAbove, nAbove))
  }
  return levels
}

/**
 * The number of the node at each place that has one.
 *
 * @param {Level} level
 */
export function numbersOf({ there }) {
  const numbers = new Int32Array(there.length)
  for (let place = 0, node = 0; place < numbers.length; place++) if (there[place]) numbers[place] = node++
  return numbers
}

/** @param {Level | undefined} above */
const parentsIn = (above) => above && new Parents(above.shape, numbersOf(above))

/**
 * Decode a level.
 *
 * @param {RangeDecoder} coder
 * @param {Level} level to be filled
 * @param {Level | undefined} above nothing for the coarsest level
 * @param {number} width 1 + V
 */
function decodeLevel(coder, level, above, width) {
  const coefficients = level.coefficients
  const parents = parentsIn(above)
  const { coefficients: aboveCoefficients, magnitudes: aboveMagnitudes } = above ?? level
  const words = 1 + Math.ceil((width - 1) / 3)
  const magnitudes = new Int32Array(level.n * words)
  const near = new Int32Array(words)
  /** The parents of the node that is coded, how many they are, and how often each counts. */
  const { found } = parents ?? { found: near }
  let nFound = 0
  let share = 0
  /** @type {Int32Array} its known neighbours */
  let known = near
  /** How many of them are faces. */
  let faces = 0

  /** Add a node's magnitudes to what is near. */
  const add = (/** @type {Int32Array} */ from, /** @type {number} */ node, /** @type {number} */ weight) => {
    const at = node * words
    if (from[at] >> SUM_BITS) for (let k = 1; k < words; k++) near[k] += Math.imul(weight, from[at + k])
  }

  /** The context of a sign: how many faces are positive, how many negative, and the sign of the parents' sum. */
  const signContext = (/** @type {number} */ c) => {
    let context = 1
    for (let i = 0; i < faces; i++) {
      const value = coefficients[known[i] * width + c]
      context += value > 0 ? 12 : value < 0 ? 3 : 0
    }
    let sum = 0
    for (let p = 0; p < nFound; p++) sum += Math.max(-CUT, Math.min(CUT, aboveCoefficients[found[p] * width + c]))
    return context + Math.sign(sum)
  }

  /** Decode the coefficient of channel c, which is kept; gives its magnitude, cut. */
  const decode = (/** @type {number} */ node, /** @type {number} */ c, /** @type {number} */ sum, /** @type {number} */ before) => {
    const base = NEAR_CLASSES + CHANNEL_CONTEXTS * c
    const n = classOf(sum)
    if (!coder.bit(base + 5 * n + before)) return 0
    const isNegative = coder.bit(base + NEGATIVE + signContext(c))
    let magnitude = 1
    for (let context = base + ABOVE_ONE + n; magnitude <= UNARY && coder.bit(context); magnitude++) {
      context = base + ABOVE_TWO + magnitude - 1
    }
    if (magnitude > UNARY) {
      let bits = 0
      while (bits < GAMMA_BITS && !coder.bit(base + GAMMA + bits)) bits++
      magnitude = UNARY + 1
      if (bits--) magnitude = UNARY + (((2 | coder.bit(base + GAMMA + GAMMA_BITS + bits)) << bits) | coder.direct(bits))
    }
    coefficients[node * width + c] = isNegative ? -magnitude : magnitude
    return Math.min(magnitude, CUT)
  }

  const visit = (
    /** @type {number} */ node,
    /** @type {Int32Array} */ around,
    /** @type {number} */ nFaces,
    /** @type {number} */ edges,
    /** @type {number} */ _all,
    /** @type {number} */ x,
    /** @type {number} */ y,
    /** @type {number} */ z,
  ) => {
    known = around
    faces = nFaces
    if (parents) {
      parents.of(x, y, z)
      nFound = parents.n
      share = 8 / nFound
    }
    let nearNode = 0
    for (let i = 0; i < edges; i++) nearNode += (i < faces ? FACE_WEIGHT : EDGE_WEIGHT) * magnitudes[known[i] * words]
    for (let p = 0; p < nFound; p++) nearNode += share * aboveMagnitudes[found[p] * words]
    let last = decode(node, 0, nearNode & SUM_MASK, 0)
    magnitudes[node * words] = last
    if (!coder.bit(classOf(nearNode >> SUM_BITS))) return
    near.fill(0)
    for (let i = 0; i < edges; i++) add(magnitudes, known[i], i < faces ? FACE_WEIGHT : EDGE_WEIGHT)
    for (let p = 0; p < nFound; p++) add(aboveMagnitudes, found[p], share)
    let beforeLast = 0
    let sum = 0
    let c = 1
    for (let k = 1; k < words; k++) {
      let word = 0
      for (let shift = 0; shift < WORD_BITS && c < width; shift += SUM_BITS, c++) {
        const size = decode(node, c, (near[k] >> shift) & SUM_MASK, Math.min(2, last) + Math.min(2, beforeLast))
        beforeLast = last
        last = size
        sum += size
        word |= size << shift
      }
      magnitudes[node * words + k] = word
    }
    if (!sum) throw new Damaged()
    magnitudes[node * words] |= sum << SUM_BITS
  }
  walk(level.there, level.shape, (kind) => kind !== PRUNED, visit)
  level.magnitudes = magnitudes
}

/**
 * Decode pyramids over a few lattices, a stream for each level of all of them.
 *
 * @param {{ shape: readonly number[], there: Uint8Array, n: number }[]} lattices and how many nodes they have
 * @param {import('./container.js').SectionReader[]} readers of the levels, coarsest first; those that are not here stay zeros
 * @param {number} width
 * @param {(stack: Level[]) => void} [onCoarse] gets the first lattice's levels when there is all but the finest
 */
export function readLevels(lattices, readers, width, onCoarse) {
  const stacks = lattices.map(({ shape, there, n }) => findNodes(there, shape, n, readers.length))
  for (const [i, { section }] of readers.entries()) expectRaw(section, 2 * width * stacks.reduce((sum, levels) => sum + levels[i].n, 0))
  for (const level of stacks.flat()) level.coefficients = new Int16Array(level.n * width)
  for (const [i, reader] of readers.entries()) {
    if (!reader.section.isHere) break
    if (i && i === readers.length - 1) onCoarse?.(stacks[0])
    reader.decode((stream) => {
      const coder = new RangeDecoder(stream, NEAR_CLASSES + width * CHANNEL_CONTEXTS)
      for (const levels of stacks) decodeLevel(coder, levels[i], levels[i - 1], width)
      coder.end()
    })
  }
  return stacks
}

/**
 * @param {import('./container.js').SectionReader} reader of STEP
 * @param {number} channels
 * @returns {{ steps: Float32Array, basis: Float32Array | undefined }}
 */
function readSteps(reader, channels) {
  const [latents, hasBasis] = [reader.u16(), reader.u16()]
  reader.expect('latent count', latents, 1, MAX_LATENTS)
  if (hasBasis > 1 || (!hasBasis && latents !== channels)) throw reader.refuse('latents do not lead to the features')
  const n = 1 + latents + hasBasis * latents * channels
  reader.expectLeft(4 * n, ' of steps and basis')
  const steps = reader.floats(1 + latents)
  const basis = hasBasis ? reader.floats(latents * channels) : undefined
  if (!(steps.every((step) => step > 0) && [...steps, ...(basis ?? [])].every(Number.isFinite))) {
    throw reader.refuse('a step is not positive, or a value not finite')
  }
  return { steps, basis }
}

/**
 * What only a pyramid has, and its partition.
 *
 * @param {import('./container.js').SectionReader} stepReader of STEP
 * @param {import('./container.js').SectionReader[]} readers of the levels, coarsest first
 * @param {import('./decode.js').Head} head
 * @param {() => Uint8Array} readPart
 * @param {(coarse: Pyramid & Coarse) => void} onCoarse gets it without its finest level
 * @returns {Pyramid}
 */
export function readPyramid(stepReader, readers, { shape, channels, nCoded }, readPart, onCoarse) {
  const { steps, basis } = readSteps(stepReader, channels)
  const width = steps.length
  expectRaw(readers[readers.length - 1].section, 2 * nCoded * width)
  const partition = readPart()
  const [levels] = readLevels([{ shape, there: partition, n: nCoded }], readers, width, (stack) => {
    const { shape: sides, there, n } = /** @type {any} */ (stack[stack.length - 2])
    const coarse = { shape: sides, partition: there, nCoded: n, cells: shape.map((side) => (side - 1) / 2) }
    onCoarse({ steps, basis, levels: stack.slice(0, -1), ...coarse })
  })
  return { partition, steps, basis, levels }
}

/**
 * What the coefficients add up to.
 *
 * @param {Float32Array} steps [1 + V]
 * @param {Level[]} levels coarsest first
 * @returns {Float32Array} [N, 1 + V] of the finest level's nodes: raw density, latents
 */
export function addUp(steps, levels) {
  const width = steps.length
  let above = new Float32Array(0)
  for (const [i, level] of levels.entries()) {
    const values = new Float32Array(level.coefficients)
    const parents = parentsIn(levels[i - 1])
    const coarse = above
    eachNode(level, (node, x, y, z) => {
      const at = node * width
      const found = parents?.of(x, y, z) ?? []
      for (let c = 0; c < width; c++) {
        let sum = 0
        if (parents) for (let p = 0; p < parents.n; p++) sum += coarse[found[p] * width + c] / parents.n
        values[at + c] = values[at + c] * steps[c] + sum
      }
    })
    above = values
  }
  return above
}
