/** What is whole and cannot be drawn: the limits of FORMAT.md section 2, *Drawing*. */

import { inverse, times } from './front.js'

const MAX_COORDINATE = 2 ** 40
const LEAST_EXTENT = 2 ** -40
const MAX_SAMPLES = 2 ** 16
const MAX_RAY_WORK = 2 ** 31
const INTERVALS = [2 ** -64, 2 ** 64]
/** How many diagonals of the lattice a ray may run in a space without bounds, and how far from its end anything may be. */
export const STRETCH = 4
const LEAST_LEFT = 2 ** -12
const MAX_VALUE = 2 ** 100
const MAX_SUM = 2 ** 126

/**
 * @param {import('./decode.js').Head & import('./decode.js').Colour} field what is known before the voxels
 * @returns {string | undefined} why nothing can be drawn of it
 */
export function drawingFault({ lo, hi, space, isUnbounded, interval, stepWorld, alphaThreshold, emptyDensity, layers }) {
  const extents = lo.map((low, axis) => hi[axis] - low)
  const isBox = [...lo, ...hi].every((x) => Math.abs(x) <= MAX_COORDINATE) && extents.every((x) => x >= LEAST_EXTENT)
  if (!isBox || lo.some((low, axis) => !(Math.fround(low) < Math.fround(hi[axis])))) {
    return `bounds: ${lo} and ${hi} are too far, too near, or one place in 32 bits`
  }
  if (!(alphaThreshold > 0 && alphaThreshold < 1)) return `alpha_threshold: expected a value between 0 and 1, got ${alphaThreshold}`
  if (interval < INTERVALS[0] || interval > INTERVALS[1]) return `interval: ${interval} makes no density that can be told apart`
  if (space && !isSpaceFine(space, lo, hi, isUnbounded)) return 'space: not all of it is in front, or near enough'
  const samples = ((isUnbounded ? STRETCH : 1) * Math.hypot(...extents)) / stepWorld + 1
  if (!(samples <= MAX_SAMPLES)) return `step_world: a ray has ${samples.toPrecision(3)} samples, expected at most ${MAX_SAMPLES}`
  const weights = layers.reduce((sum, layer) => sum + layer.out * layer.in, 0)
  if (samples * weights > MAX_RAY_WORK) return `the network's ${weights} weights for ${Math.round(samples)} samples of a ray take too long`
  return Math.abs(emptyDensity) <= MAX_VALUE ? undefined : 'empty density: is more than can be drawn'
}

/**
 * @param {readonly number[]} space
 * @param {readonly number[]} lo
 * @param {readonly number[]} hi
 * @param {boolean} [isUnbounded]
 */
function isSpaceFine(space, lo, hi, isUnbounded) {
  const back = inverse(space)
  if (!back || space.some((value) => Math.abs(value) > MAX_COORDINATE)) return false
  return [0, 1, 2, 3, 4, 5, 6, 7].every((corner) => {
    const place = lo.map((low, axis) => (corner & (1 << axis) ? hi[axis] : low))
    const left = isUnbounded ? 2 - Math.max(...place.map(Math.abs)) : 1
    if (left < LEAST_LEFT) return false
    const [x, y, z, nearness] = times(back, [...place, Math.min(left, 1)])
    return nearness * MAX_COORDINATE >= 1 && [x / nearness, y / nearness, z / nearness, nearness].every((value) => Math.abs(value) <= MAX_COORDINATE)
  })
}

/**
 * @param {import('./textures.js').Drawn} drawn
 * @returns {string | undefined} which of its values, or sums of them, are none in 32 bits
 */
export function valuesFault({ densityRange, featureScale, featureOffset, layers }) {
  const largest = (/** @type {Iterable<number>} */ values) => [...values].reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  const features = largest(featureScale) + largest(featureOffset)
  if (!(largest(densityRange) <= MAX_VALUE && features <= 2 * MAX_VALUE)) return 'its values are more than can be drawn'
  let bound = Math.max(features, 1)
  for (const { out, in: width, weight, bias } of layers) {
    let most = 0
    for (let row = 0; row < out; row++) {
      let sum = 0
      for (let k = 0; k < width; k++) sum += Math.abs(weight[row * width + k])
      most = Math.max(most, sum * bound + Math.abs(bias[row]))
    }
    if (!(most <= MAX_SUM)) return 'sums in its network are more than 32 bits hold'
    bound = most
  }
  return undefined
}
