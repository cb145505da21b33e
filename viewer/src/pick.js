/** What a person points at: the first occupied cell along a ray, found in the block table that the graphics hardware has too. */

import { BLOCK_CELLS } from './textures.js'

/** Occupied cells in a row that are something: a speck is fewer. */
const LEAST_CELLS = 2
/** Steps to a cell. */
const STEPS = 2

/**
 * @param {import('./textures.js').Drawn} drawn
 * @param {import('./renderer.js').Camera} camera
 * @param {number} x of the pixel, from the left
 * @param {number} y from the top
 * @returns {number[] | undefined} the place in the world
 */
export function pick({ lo, hi, space, shape, isCoarse, blocks, table }, { pose, fx, fy, cx, cy }, x, y) {
  // A camera amid photos stays there, and comes no nearer to a thing; and what is coarse is so for a moment.
  if (space || isCoarse) return undefined
  const pixel = [(x - cx) / fx, -(y - cy) / fy, -1]
  const cells = shape.map((side) => side - 1)
  const toCell = cells.map((n, axis) => n / (hi[axis] - lo[axis]))
  const origin = [3, 7, 11].map((at, axis) => (pose[at] - lo[axis]) * toCell[axis])
  const direction = [0, 4, 8].map((row, axis) => toCell[axis] * pixel.reduce((sum, value, i) => sum + value * pose[row + i], 0))
  let [enter, leave] = [0, Infinity]
  for (let axis = 0; axis < 3; axis++) {
    const ends = [-origin[axis] / direction[axis], (cells[axis] - origin[axis]) / direction[axis]]
    if (ends.some(Number.isNaN)) return undefined
    enter = Math.max(enter, Math.min(...ends))
    leave = Math.min(leave, Math.max(...ends))
  }
  const step = 1 / (STEPS * Math.max(...direction.map(Math.abs)))
  const limit = STEPS * cells.reduce((sum, n) => sum + n, 3)
  for (let n = 0, t = enter, seen = 0; n < limit && t <= leave; n++, t += step) {
    const at = origin.map((value, axis) => Math.min(cells[axis] - 1, Math.max(0, Math.floor(value + t * direction[axis]))))
    const [i, j, k] = at.map((cell) => Math.floor(cell / BLOCK_CELLS))
    const word = 4 * ((i * blocks[1] + j) * blocks[2] + k)
    const bit = ((at[0] & 3) << 4) | ((at[1] & 3) << 2) | (at[2] & 3)
    seen = !table[word + 3] && (table[word + (bit >> 5)] >>> (bit & 31)) & 1 ? seen + 1 : 0
    if (seen === LEAST_CELLS * STEPS) return origin.map((value, axis) => lo[axis] + (value + t * direction[axis]) / toCell[axis])
  }
  return undefined
}
