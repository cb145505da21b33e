/** A camera before what was seen from one side, or amid what was seen from there, and the map that it stands in. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { homeOf, inverse, times } from '../src/front.js'
import { Orbit } from '../src/orbit.js'

/** Looks along +y from (1, 2, 3), with z up; near 2, as deep as 0.5. */
const SPACE = [...[1, 0, 0, -1], ...[0, 0, 1, -3], ...[0, 0.5, 0, -2], ...[0, 1, 0, -2]]
const [LO, HI] = [
  [-0.5, -0.5, 0],
  [0.5, 0.5, 0.4],
]

const near = (/** @type {readonly number[]} */ a, /** @type {readonly number[]} */ b) =>
  a.forEach((value, i) => assert.ok(Math.abs(value - b[i]) < 1e-9, `${a} is not ${b}`))

test('one map undoes the other', () => {
  const back = /** @type {number[]} */ (inverse(SPACE))
  const world = [1.5, 6, 2]
  const [x, y, z, w] = times(SPACE, [...world, 1])
  near([x / w, y / w, z / w], [0.125, -0.25, 0.25])
  near(times(back, [0.125, -0.25, 0.25, 1]).map((value, _, all) => value / all[3]), [...world, 1])
  assert.equal(inverse(SPACE.map((value, i) => (i < 4 ? 0 : value))), undefined)
})

test('a camera begins where the photos were taken, upright, and stays before what it sees', () => {
  const home = homeOf(SPACE, LO, HI)
  const orbit = new Orbit(LO, HI, home)
  const eye = () => [3, 7, 11].map((i) => orbit.camera(40, 30).pose[i])
  near(eye(), [1, 2, 3])
  near([0, 1, 2].map((row) => orbit.camera(40, 30).pose[4 * row + 1]), [0, 0, 1])
  near([0, 1, 2].map((row) => orbit.camera(40, 30).pose[4 * row + 2]), [0, -1, 0])
  const distance = orbit.distance
  orbit.turn(9, 9)
  orbit.zoom(100)
  assert.ok(orbit.distance < 2 * distance && eye()[1] < orbit.target[1])
  orbit.zoom(1e-9)
  assert.ok(orbit.distance > distance / 2)
  orbit.reset()
  near(eye(), [1, 2, 3])
  assert.ok(orbit.parse('1,5,3,7,0,4') && Math.abs(orbit.yaw - orbit.middle) < 1)
})

test('a space without such a point has no home', () => {
  assert.equal(homeOf([...[1, 0, 0, 0], ...[0, 1, 0, 0], ...[0, 0, 1, 0], ...[0, 0, 0, 1]], LO, HI), undefined)
})

/** A cube of half-side 2 around (1, 2, 3), for a place with all that is around it. */
const PLACE = [...[0.5, 0, 0, -0.5], ...[0, 0.5, 0, -1], ...[0, 0, 0.5, -1.5], ...[0, 0, 0, 1]]

test('a camera begins within the cube that held the photos, and flies no farther than it', () => {
  const home = homeOf(PLACE, [-1.9, -1.9, -1.9], [1.9, 1.9, 1.9], true)
  const orbit = new Orbit([-1.9, -1.9, -1.9], [1.9, 1.9, 1.9], home)
  const away = () => orbit.position.map((value, axis) => value - [1, 2, 3][axis])
  const isInside = () => away().every((value) => Math.abs(value) < 2)
  near(orbit.target, [1, 2, 3])
  assert.ok(isInside() && Math.abs(Math.hypot(...away()) - 1.6) < 0.01)
  const before = orbit.position
  orbit.turn(2, 0)
  assert.ok(Math.hypot(...before.map((value, axis) => value - orbit.position[axis])) > 1 && isInside())
  orbit.isFlying = true
  for (let n = 0; n < 200; n++) orbit.move(0, 0, -0.3)
  assert.ok(Math.hypot(...away()) < 1.3 * 2)
  for (let n = 0; n < 200; n++) orbit.move(0.3, 0, 0.1)
  assert.ok(Math.hypot(...away()) < 1.3 * 2)
})
