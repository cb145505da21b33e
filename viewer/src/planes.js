/**
 * Planes and lines: pyramids over the shadows of the voxels, whose products add up to density and features.
 *
 * Written from FORMAT.md section 12. Safe for untrusted input like the rest of the decoder.
 */

import { addUp, eachNode, numbersOf, placesOf, readLevels } from './pyramid.js'

/**
 * @typedef {object} Planes
 * @property {Uint8Array} partition
 * @property {import('./pyramid.js').Level[][]} stacks of the planes on x and y, x and z, y and z, then of the lines on z, y, x: levels,
 *   coarsest first
 * @property {Float32Array[]} stackSteps of each of these, [R]
 * @property {number} densities how many components are density's; the others are the features'
 * @property {import('./decode.js').Table} mix [3 R_f, C]
 * @property {Int32Array[]} places along each axis, at which the voxels are in the planes and lines
 */

const MAX_COMPONENTS = 256

/** @param {import('./container.js').SectionReader} reader of PLAN */
function readPlan(reader) {
  const [densities, colours] = [reader.u16(), reader.u16()]
  if (![densities, colours].every((n) => n >= 1 && n <= MAX_COMPONENTS)) {
    throw reader.refuse(`${densities} and ${colours} components are outside 1..${MAX_COMPONENTS}`)
  }
  const width = densities + colours
  reader.expectLeft(24 * width, ' of steps')
  const stackSteps = Array.from({ length: 6 }, () => reader.floats(width))
  if (!stackSteps.every((steps) => steps.every((step) => step > 0 && step < Infinity))) throw reader.refuse('a step is not finite and positive')
  return { densities, colours, width, stackSteps }
}

/**
 * @param {(kind: string) => import('./container.js').SectionReader[]} open
 * @param {import('./decode.js').Head} head
 * @param {(rows: number) => import('./decode.js').Table} readMix
 * @param {() => Uint8Array} readPart
 * @returns {Planes}
 */
export function readPlanes(open, { shape }, readMix, readPart) {
  const { densities, colours, width, stackSteps } = readPlan(open('PLAN')[0])
  const mix = readMix(3 * colours)
  const partition = readPart()
  const [X, Y, Z] = shape
  const shapes = [[X, Y, 1], [X, Z, 1], [Y, Z, 1], [Z, 1, 1], [Y, 1, 1], [X, 1, 1]]
  const theres = shapes.map((sides) => new Uint8Array(placesOf(sides)))
  const [xy, xz, yz, onZ, onY, onX] = theres
  eachNode({ shape, there: partition }, (_, x, y, z) => {
    xy[x * Y + y] = xz[x * Z + z] = yz[y * Z + z] = onZ[z] = onY[y] = onX[x] = 1
  })
  const shadows = theres.map((there, i) => ({ shape: shapes[i], there, n: there.reduce((sum, one) => sum + one, 0) }))
  const stacks = ['PLN', 'LIN'].flatMap((kind, k) => readLevels(shadows.slice(3 * k, 3 * k + 3), open(kind), width))
  const places = shape.map((side) => new Int32Array(side).map((_, i) => i))
  return { partition, stacks, densities, stackSteps, mix, places }
}

/**
 * The same field on fewer voxels, which is worth less and multiplied out sooner: along each axis about one of so many, the first and the
 * last among them.
 *
 * @template {import('./decode.js').Common & Planes} Field
 * @param {Field} field
 * @param {number} stride less than each side
 * @returns {Field}
 */
export function thinned(field, stride) {
  const [, Y, Z] = field.shape
  const places = field.shape.map((side) => {
    const n = Math.ceil(side / stride)
    return Int32Array.from({ length: n }, (_, i) => Math.round((i * (side - 1)) / (n - 1)))
  })
  const shape = /** @type {[number, number, number]} */ (places.map((along) => along.length))
  const partition = new Uint8Array(placesOf(shape))
  let [place, nCoded] = [0, 0]
  for (const x of places[0]) {
    for (const y of places[1]) {
      for (const z of places[2]) nCoded += partition[place++] = field.partition[(x * Y + y) * Z + z]
    }
  }
  return { ...field, shape, nCoded, partition, places }
}

/** How many products a field is summed up from. @param {import('./decode.js').Common & Planes} field */
export const productsOf = ({ nCoded, densities, mix }) => nCoded * (3 * densities + mix.items.length)

/** Voxels and channels that are multiplied at once: that many sums stay in registers. */
const TILE = 3

/**
 * What planes and lines are worth at the voxels.
 *
 * @param {import('./decode.js').Common & Planes} field
 * @param {Float32Array} mix
 */
export function multiplyOut({ partition, shape, places, nCoded, channels, stacks, densities, stackSteps }, mix) {
  const density = new Float32Array(nCoded)
  const features = new Float32Array((nCoded + TILE) * channels + TILE)
  const width = stackSteps[0].length
  const values = stacks.map((levels, i) => addUp(stackSteps[i], levels))
  const numbers = stacks.map((levels) => numbersOf(levels[levels.length - 1]))
  const [, Y, Z] = places.map((along) => 1 + Math.max(...along))
  const rows = mix.length / channels
  /** By tiles of channels, then by row. */
  const weights = new Float64Array(rows * (channels + TILE))
  for (let i = 0; i < mix.length; i++) {
    const channel = i % channels
    weights[rows * (channel - (channel % TILE)) + TILE * Math.floor(i / channels) + (channel % TILE)] = mix[i]
  }
  const products = new Float64Array(rows * TILE)
  // The last tile of channels comes first: what it writes too much is written over by the next voxel's first.
  const multiply = (/** @type {number} */ to) => {
    for (let channel = channels - 1 - ((channels - 1) % TILE); channel >= 0; channel -= TILE) {
      let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0, i = 0
      for (let from = 0, at = rows * channel; from < products.length; from += TILE, at += TILE) {
        const x = products[from], y = products[from + 1], z = products[from + 2]
        const u = weights[at], v = weights[at + 1], w = weights[at + 2]
        a += x * u
        b += x * v
        c += x * w
        d += y * u
        e += y * v
        f += y * w
        g += z * u
        h += z * v
        i += z * w
      }
      let k = to + channel
      features[k] = a
      features[k + 1] = b
      features[k + 2] = c
      k += channels
      features[k] = d
      features[k + 1] = e
      features[k + 2] = f
      k += channels
      features[k] = g
      features[k + 1] = h
      features[k + 2] = i
    }
  }
  /** Multiply a row of a plane with one of a line: density's sum, and products for features. */
  const cross = (/** @type {number} */ p, /** @type {number[]} */ at, /** @type {number} */ row) => {
    const plane = values[p], line = values[p + 3]
    const from = numbers[p][at[p]] * width, along = numbers[p + 3][at[p + 3]] * width
    let sum = 0
    for (let r = 0; r < densities; r++) sum += plane[from + r] * line[along + r]
    for (let r = densities; r < width; r++, row += TILE) products[row] = plane[from + r] * line[along + r]
    return sum
  }
  eachNode({ shape, there: partition }, (voxel, i, j, k) => {
    const x = places[0][i], y = places[1][j], z = places[2][k]
    const at = [x * Y + y, x * Z + z, y * Z + z, z, y, x]
    const lane = voxel % TILE
    density[voxel] = cross(0, at, lane) + cross(1, at, lane + rows) + cross(2, at, lane + 2 * rows)
    if (voxel % TILE === TILE - 1 || voxel === nCoded - 1) multiply((voxel - (voxel % TILE)) * channels)
  })
  return { density, features: features.subarray(0, nCoded * channels) }
}
