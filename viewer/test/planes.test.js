/** Planes and lines, multiplied out by tiles of voxels and channels. */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import { decode } from '../src/decode.js'
import { multiplyOut, thinned } from '../src/planes.js'
import { addUp, eachNode, numbersOf } from '../src/pyramid.js'

const field = decode(new Uint8Array(readFileSync(new URL('../../conformance/valid/planes.vqrf', import.meta.url))))
assert.ok('mix' in field)
const rows = 3 * (field.stackSteps[0].length - field.densities)

/**
 * The definition, a sum at a time.
 *
 * @param {number} channels
 * @param {Float32Array} mix
 */
function summed(channels, mix) {
  assert.ok('mix' in field)
  const { stacks, stackSteps, densities, shape } = field
  const [, Y, Z] = shape
  const width = stackSteps[0].length
  const values = stacks.map((levels, i) => addUp(stackSteps[i], levels))
  const numbers = stacks.map((levels) => numbersOf(levels[levels.length - 1]))
  /** @type {number[][]} */
  const voxels = []
  eachNode({ shape, there: field.partition }, (_, x, y, z) => {
    const at = [x * Y + y, x * Z + z, y * Z + z, z, y, x].map((place, i) => numbers[i][place] * width)
    const product = (/** @type {number} */ p, /** @type {number} */ r) => values[p][at[p] + r] * values[p + 3][at[p + 3] + r]
    const sums = new Array(1 + channels).fill(0)
    for (let p = 0, row = 0; p < 3; p++) {
      for (let r = 0; r < densities; r++) sums[0] += product(p, r)
      for (let r = densities; r < width; r++, row++) for (let c = 0; c < channels; c++) sums[1 + c] += product(p, r) * mix[row * channels + c]
    }
    voxels.push(sums)
  })
  return voxels
}

for (const channels of [1, 2, 3, 4, 5, 7]) {
  test(`${channels} channels are multiplied out as by their definition`, () => {
    const mix = new Float32Array(rows * channels).map((_, i) => Math.sin(i + 1))
    for (const nCoded of [field.nCoded, field.nCoded - 1, field.nCoded - 2]) {
      const partition = field.partition.slice()
      for (let i = partition.length, left = field.nCoded - nCoded; left; ) if (partition[--i]) left -= partition[i]--
      const { density, features } = multiplyOut({ ...field, channels, nCoded, partition }, mix)
      assert.equal(density.length, nCoded)
      assert.equal(features.length, nCoded * channels)
      for (const [voxel, sums] of summed(channels, mix).slice(0, nCoded).entries()) {
        const found = [density[voxel], ...features.subarray(voxel * channels, (voxel + 1) * channels)]
        for (const [i, value] of found.entries()) assert.ok(Math.abs(value - sums[i]) <= 1e-5 * (1 + Math.abs(sums[i])))
      }
    }
  })
}

test('fewer voxels are worth what the same voxels of the whole are, with the corners of the lattice among them', () => {
  const channels = 3
  const mix = new Float32Array(rows * channels).map((_, i) => Math.sin(i + 1))
  const whole = multiplyOut({ ...field, channels }, mix)
  const numbers = numbersOf({ ...field.stacks[0][0], there: field.partition })
  for (const stride of [2, 3]) {
    const few = thinned(field, stride)
    const coarse = multiplyOut({ ...few, channels }, mix)
    assert.deepEqual(few.shape, field.shape.map((side) => Math.ceil(side / stride)))
    for (const [axis, along] of few.places.entries()) assert.deepEqual([along[0], along[along.length - 1]], [0, field.shape[axis] - 1])
    eachNode({ shape: few.shape, there: few.partition }, (voxel, x, y, z) => {
      const [i, j, k] = [x, y, z].map((at, axis) => few.places[axis][at])
      const place = (i * field.shape[1] + j) * field.shape[2] + k
      assert.ok(field.partition[place])
      assert.equal(coarse.density[voxel], whole.density[numbers[place]])
      const at = numbers[place] * channels
      assert.deepEqual([...coarse.features.subarray(voxel * channels, (voxel + 1) * channels)], [...whole.features.subarray(at, at + channels)])
    })
  }
})
