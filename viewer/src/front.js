/** The spaces that are no box: FORMAT.md section 4, *Space*. Matrices are 4x4, row by row. */

/** How far from where a photo was taken one may turn, in degrees, and go, in parts of the distance: beyond it nobody has looked. */
const MAX_TURN = 20
const MAX_ZOOM = 1.6
const MAX_APPROACH = 8

/** @typedef {[number, number, number]} Vector */

/**
 * @param {readonly number[]} matrix
 * @param {readonly number[]} vector
 */
export const times = (matrix, vector) =>
  [0, 4, 8, 12].map((row) => vector.reduce((sum, value, column) => sum + matrix[row + column] * value, 0))

/**
 * @param {readonly number[]} matrix
 * @returns {number[] | undefined} nothing where it cannot be undone
 */
export function inverse(matrix) {
  const rows = [0, 1, 2, 3].map((row) => [0, 1, 2, 3, 4, 5, 6, 7].map((i) => (i < 4 ? matrix[4 * row + i] : +(i - 4 === row))))
  for (let at = 0; at < 4; at++) {
    const pivot = rows.reduce((best, row, i) => (i >= at && Math.abs(row[at]) > Math.abs(rows[best][at]) ? i : best), at)
    ;[rows[at], rows[pivot]] = [rows[pivot], rows[at]]
    const scale = rows[at][at]
    if (!scale) return undefined
    rows[at] = rows[at].map((value) => value / scale)
    for (const [i, row] of rows.entries()) if (i !== at) rows[i] = row.map((value, k) => value - row[at] * rows[at][k])
  }
  return rows.flatMap((row) => row.slice(4))
}

/**
 * Where a camera begins, and how far it may go: amid those that took the photos, looking at the middle of what there is.
 *
 * @typedef {object} Home
 * @property {Vector} [up]
 * @property {{ position: Vector, target: Vector }} view
 * @property {[number, number]} distance the least and the most
 * @property {[number, number]} [pitch] in degrees
 * @property {[number, number]} [yaw] how far it may turn to each side, in degrees
 * @property {number[]} [frame] half the sides of what can be seen, from distance 1
 */

/** In a space without bounds: where a camera stands of which nothing is said, in a cube from -1 to 1 that nothing contracts. */
const AMID = [0.448, -0.564, 0.348, 1]

/**
 * @param {readonly number[]} space
 * @param {readonly number[]} lo places
 * @param {readonly number[]} hi
 * @param {boolean} [isUnbounded]
 * @returns {Home | undefined} nothing where the space has no such point
 */
export function homeOf(space, lo, hi, isUnbounded) {
  const back = inverse(space)
  if (!back) return undefined
  const world = (/** @type {number[]} */ place) => {
    const [x, y, z, w] = times(back, place)
    return /** @type {Vector} */ ([x / w, y / w, z / w])
  }
  const position = world(isUnbounded ? AMID : [0, 0, 1, 0])
  if (!position.every(Number.isFinite)) return undefined
  const target = world(isUnbounded ? [0, 0, 0, 1] : [...lo.map((low, axis) => (low + hi[axis]) / 2), 1])
  const view = { position, target }
  const distance = Math.hypot(...position.map((value, axis) => value - target[axis]))
  if (isUnbounded) return { view, distance: [distance / MAX_APPROACH, distance * MAX_ZOOM] }
  const up = /** @type {Vector} */ (space.slice(4, 7))
  /** @type {[number, number]} */
  const turns = [-MAX_TURN, MAX_TURN]
  const frame = lo.map((low, axis) => (hi[axis] - low) / 2)
  return { view, distance: [distance / MAX_ZOOM, distance * MAX_ZOOM], yaw: turns, pitch: turns, up, frame }
}
