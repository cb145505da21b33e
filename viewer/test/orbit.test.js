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

test('whatever is up, what is up points up, and a place that is looked from is the place of the camera', () => {
  for (const up of [[0, 0, 1], [0, 1, 0], [0, 0, -1], [0.3, -0.5, 0.8]]) {
    const orbit = new Orbit([-1, -1, -1], [1, 1, 1], { up: /** @type {any} */ (up) })
    const [right, above, back] = orbit.axes()
    const dot = (a, b) => a.reduce((sum, value, axis) => sum + value * b[axis], 0)
    assert.ok(Math.abs(dot(right, up)) < 1e-9 && dot(above, up) > 0 && dot(back, up) > 0)
    orbit.look([3, 1, 0.5], [0.5, 0, 0.1])
    orbit.position.forEach((value, axis) => assert.ok(Math.abs(value - [3, 1, 0.5][axis]) < 1e-9))
    const { pose } = orbit.camera(10, 10)
    assert.ok(Math.abs(dot([pose[0], pose[4], pose[8]], up)) < 1e-9)
  }
})

test('a file says from where it is seen first, and how far one may go', () => {
  const view = { position: [0, -4, 3], target: [0, 0, 1] }
  const orbit = new Orbit([-1, -1, -1], [1, 1, 1], /** @type {any} */ ({ view, distance: [2, 5], pitch: [0, 60] }))
  orbit.position.forEach((value, axis) => assert.ok(Math.abs(value - view.position[axis]) < 1e-9))
  orbit.zoom(100)
  assert.equal(orbit.distance, 5)
  orbit.zoom(0.001)
  assert.equal(orbit.distance, 2)
  orbit.turn(0, 3)
  assert.ok(Math.abs(orbit.pitch - Math.PI / 3) < 1e-9)
  orbit.turn(0, -9)
  assert.equal(orbit.pitch, 0)
  orbit.reset()
  orbit.position.forEach((value, axis) => assert.ok(Math.abs(value - view.position[axis]) < 1e-9))
})

test('a camera that is sent somewhere arrives, and goes there all the way', () => {
  const orbit = new Orbit([-1, -1, -1], [1, 1, 1])
  orbit.goal = [0.5, 0.2, -0.3, 2]
  let frames = 0
  for (; orbit.follow(0.2); frames++);
  assert.ok(frames > 5 && frames < 60 && Math.abs(orbit.distance - 2) < 0.02)
  orbit.goal = [0, 0, 0, 3]
  assert.ok(orbit.follow(1) && !orbit.follow(1))
  assert.deepEqual([...orbit.target, orbit.distance], [0, 0, 0, 3])
})

const near = (/** @type {readonly number[]} */ a, /** @type {readonly number[]} */ b) => a.every((value, axis) => Math.abs(value - b[axis]) < 1e-9)

test('in flight the camera looks around from where it stands, and goes where it looks', () => {
  const orbit = new Orbit([-1, -1, -1], [1, 1, 1])
  orbit.isFlying = true
  const { position } = orbit
  orbit.steer(0.3, -0.2)
  assert.ok(near(orbit.position, position) && !near(orbit.target, orbit.center))
  const ahead = orbit.axes()[2].map((value) => -value)
  orbit.move(0, 0, 0.25)
  const way = orbit.position.map((value, axis) => value - position[axis])
  assert.ok(near(way, ahead.map((value) => 0.25 * orbit.distance * value)))
  orbit.approach(Math.exp(0.25))
  assert.ok(near(orbit.position, position))
  orbit.isFlying = false
  const { target } = orbit
  orbit.steer(0.3, 0.2)
  assert.ok(near(orbit.target, target) && !near(orbit.position, position))
})

test('in flight nobody comes to where the limits let no camera stand, or looks beyond them', () => {
  const view = { position: [0, -4, 1], target: [0, 0, 1] }
  const orbit = new Orbit([-1, -1, -1], [1, 1, 1], /** @type {any} */ ({ view, distance: [2, 5], pitch: [-5, 60], yaw: [-20, 20] }))
  orbit.isFlying = true
  const step = [[0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]
  for (let n = 0; n < 300; n++) {
    const [right, up, forward] = step[Math.floor(n / 25) % 6]
    orbit.move(0.1 * right, 0.1 * up, 0.1 * forward)
    orbit.steer(0.2 * Math.cos(n), 0.3 * Math.sin(n))
    const [x, y, z] = orbit.position.map((value, axis) => value - view.target[axis])
    const distance = Math.hypot(x, y, z)
    assert.ok(distance > 2 - 1e-9 && distance < 5 + 1e-9)
    const pitches = [Math.asin(z / distance), orbit.pitch].map((value) => (value * 180) / Math.PI)
    for (const pitch of pitches) assert.ok(pitch > -5 - 1e-9 && pitch < 60 + 1e-9)
    for (const yaw of [Math.atan2(y, x), orbit.yaw]) assert.ok(Math.abs(yaw + Math.PI / 2) < Math.PI / 9 + 1e-9)
  }
})

test('before what was seen from one side no picture shows more than was seen, however long its sides', () => {
  const view = { position: [0, 0, 0], target: [0, 0, -1] }
  const [aside, above] = [0.6, 0.45]
  const about = /** @type {any} */ ({ up: [0, 1, 0], view, distance: [0.5, 2], pitch: [-20, 20], yaw: [-20, 20], frame: [aside, above] })
  const orbit = new Orbit([-aside, -above, 0], [aside, above, 1], about)
  for (const [width, height] of [[390, 844], [1280, 800], [2100, 300], [64, 64]]) {
    const { fx, fy } = orbit.camera(width, height)
    assert.equal(fx, fy)
    assert.ok(width / 2 / fx <= aside + 1e-9 && height / 2 / fy <= above + 1e-9)
  }
  const { fx } = new Orbit([-1, -1, -1], [1, 1, 1]).camera(390, 844)
  assert.ok(Math.abs(fx - 195 / Math.tan(Math.PI / 9)) < 1e-9, 'around a thing the shorter side alone counts')
})

test('what turns by itself goes from one limit of its sides to the other and back, wherever the first view is, and without limits around', () => {
  for (const yaw of [0.3, 3.1, -3.1]) {
    const view = { position: [4 * Math.cos(yaw), 4 * Math.sin(yaw), 0], target: [0, 0, 0] }
    const orbit = new Orbit([-1, -1, -1], [1, 1, 1], /** @type {any} */ ({ view, yaw: [-30, 60] }))
    const turned = () => {
      const [x, y] = orbit.position
      return (Math.atan2(y * Math.cos(yaw) - x * Math.sin(yaw), x * Math.cos(yaw) + y * Math.sin(yaw)) * 180) / Math.PI
    }
    const seen = Array.from({ length: 400 }, () => {
      orbit.spin(0.03)
      return turned()
    })
    assert.ok(Math.abs(Math.min(...seen) + 30) < 1e-6 && Math.abs(Math.max(...seen) - 60) < 1e-6)
    const steps = seen.slice(1).map((angle, i) => Math.abs(angle - seen[i]))
    assert.ok(Math.max(...steps) < 1.72, 'no jump')
    assert.ok(steps.filter((step) => step < 1e-9).length <= 8, 'it waits nowhere')
    orbit.look([4 * Math.cos(yaw + 0.8), 4 * Math.sin(yaw + 0.8), 0], [0, 0, 0])
    assert.ok(Math.abs(turned() - (0.8 * 180) / Math.PI) < 1e-6)
    orbit.look([-4 * Math.cos(yaw), -4 * Math.sin(yaw), 0], [0, 0, 0])
    assert.ok(turned() > -30 - 1e-6 && turned() < 60 + 1e-6)
  }
  const far = new Orbit([-1, -1, -1], [1, 1, 1], /** @type {any} */ ({ view: { position: [4, 0, 0], target: [0, 0, 0] }, yaw: [-20, 180] }))
  far.turn(3, 0)
  far.turn(0.3, 0)
  assert.ok(Math.abs(far.yaw - Math.PI) < 1e-9, 'it stops at the limit that is nearer')
  const { yaw } = far
  far.spin(0)
  far.spin(-0.1)
  assert.ok(far.yaw < yaw, 'a frame without time turns nothing round')
  const free = new Orbit([-1, -1, -1], [1, 1, 1])
  const before = free.position
  for (let n = 0; n < 100; n++) free.spin(Math.PI / 50)
  assert.ok(near(free.position, before))
})
