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
 */

const MAX_COMPONENTS = 256

/** @param {import('./container.js').SectionReader} reader of PLAN */
function readPlan(reader) {
  const [densities, colours] = [reader.u16(), reader.u16()]
  if (![densities, colours].every((n) => n >= 1 && n <= MAX_COMPONENTS)) {
    throw reader.refuse(`${densities} and ${colours} components are outside 1..${MAX_COMPONENTS}`)
  }
  const width = densities + colours
  const rest = reader.bytes.length - reader.at
  if (rest !== 24 * width) throw reader.refuse(`has ${rest} bytes of steps, expected ${24 * width}`)
  const stackSteps = Array.from({ length: 6 }, () => reader.floats(width))
  if (!stackSteps.every((steps) => steps.every((step) => step > 0 && step < Infinity))) throw reader.refuse('a step is not finite and positive')
  return { densities, colours, width, stackSteps }
}

/**
 * Where the shadows of a voxel are, those on the planes first.
 *
 * @param {readonly number[]} shape of the lattice
 * @returns {(x: number, y: number, z: number) => number[]}
 */
const shadowsIn = ([, Y, Z]) => (x, y, z) => [x * Y + y, x * Z + z, y * Z + z, z, y, x]

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
  const shadows = shapes.map((sides) => ({ shape: sides, there: new Uint8Array(placesOf(sides)), n: 0 }))
  const find = shadowsIn(shape)
  eachNode({ shape, there: partition }, (_, x, y, z) => {
    for (const [i, at] of find(x, y, z).entries()) {
      const shadow = shadows[i]
      shadow.n += 1 - shadow.there[at]
      shadow.there[at] = 1
    }
  })
  const stacks = ['PLN', 'LIN'].flatMap((kind, k) => readLevels(shadows.slice(3 * k, 3 * k + 3), open(kind), width))
  return { partition, stacks, densities, stackSteps, mix }
}

/**
 * What planes and lines are worth at the voxels.
 *
 * @param {Planes & { shape: readonly number[], nCoded: number, channels: number }} field
 * @param {Float32Array} mix
 */
export function multiplyOut({ partition, shape, nCoded, channels, stacks, densities, stackSteps }, mix) {
  const density = new Float32Array(nCoded)
  const features = new Float32Array(nCoded * channels)
  const width = stackSteps[0].length
  const values = stacks.map((levels, i) => addUp(stackSteps[i], levels))
  const numbers = stacks.map((levels) => numbersOf(levels[levels.length - 1]))
  const find = shadowsIn(shape)
  // By channel, so that a sum stays in a register.
  const rows = mix.length / channels
  const byChannel = new Float64Array(mix.length).map((_, i) => mix[(i % rows) * channels + Math.floor(i / rows)])
  const products = new Float64Array(rows)
  eachNode({ shape, there: partition }, (voxel, x, y, z) => {
    const at = find(x, y, z)
    let row = 0
    for (let p = 0; p < 3; p++) {
      const [plane, line] = [values[p], values[p + 3]]
      const [from, along] = [numbers[p][at[p]] * width, numbers[p + 3][at[p + 3]] * width]
      for (let r = 0; r < width; r++) {
        const product = plane[from + r] * line[along + r]
        if (r < densities) density[voxel] += product
        else products[row++] = product
      }
    }
    for (let k = 0, i = 0; k < channels; k++) {
      let sum = 0
      for (row = 0; row < rows; row++) sum += products[row] * byChannel[i++]
      features[voxel * channels + k] = sum
    }
  })
  return { density, features }
}
