import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Orbit } from '../src/orbit.js'

/**
 * @param {readonly number[]} pose 3x4 of the camera to the world, row after row
 * @param {readonly number[]} point of the world
 */
function fromCamera(pose, point) {
  const offset = point.map((value, axis) => value - pose[4 * axis + 3])
  return [0, 1, 2].map((column) => offset.reduce((sum, value, axis) => sum + value * pose[4 * axis + column], 0))
}

const BOXES = { tall: [1, 1, 3], flat: [3, 2, 0.1], cube: [1, 1, 1], long: [0.2, 5, 0.2] }

for (const [name, size] of Object.entries(BOXES)) {
  test(`the first view has all of a ${name} box in it`, () => {
    const lo = [-2, 0.5, 7]
    const hi = lo.map((value, axis) => value + size[axis])
    for (const [width, height] of [[640, 480], [300, 900]]) {
      const camera = new Orbit(lo, hi).camera(width, height)
      for (let corner = 0; corner < 8; corner++) {
        const point = lo.map((value, axis) => ((corner >> axis) & 1 ? hi[axis] : value))
        const [x, y, z] = fromCamera(camera.pose, point)
        assert.ok(z < 0, 'in front of the camera, which looks along -z')
        assert.ok(Math.abs((camera.fx * x) / z) <= width / 2)
        assert.ok(Math.abs((camera.fy * y) / z) <= height / 2)
      }
    }
  })
}
