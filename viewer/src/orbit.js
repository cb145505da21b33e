/** A camera that turns around a point: its place as a few numbers, and how they change. World +Z is up. */

/** Half the view's height, seen from distance 1. */
const TAN_HALF_FOV = Math.tan((20 * Math.PI) / 180)
const MAX_PITCH = Math.PI / 2 - 0.01
/** What a reset looks from. */
const START = { yaw: -0.9, pitch: 0.45 }
/** Of the radius of the field. */
const NEAREST = 0.02
const FARTHEST = 20
/** Digits that a link to a view carries. */
const DIGITS = 5

export class Orbit {
  /**
   * @param {readonly number[]} lo of what is to be seen
   * @param {readonly number[]} hi
   */
  constructor(lo, hi) {
    this.center = lo.map((value, axis) => (value + hi[axis]) / 2)
    this.radius = Math.hypot(...lo.map((value, axis) => hi[axis] - value)) / 2
    this.target = [...this.center]
    this.yaw = 0
    this.pitch = 0
    this.distance = 1
    this.reset()
  }

  reset() {
    this.target = [...this.center]
    this.yaw = START.yaw
    this.pitch = START.pitch
    this.distance = this.radius / Math.sin(Math.atan(TAN_HALF_FOV)) // all of the field is in the picture
  }

  /** Columns of the camera's rotation: right, up, back. */
  axes() {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)]
    return [
      [-sy, cy, 0],
      [-sp * cy, -sp * sy, cp],
      [cp * cy, cp * sy, sp],
    ]
  }

  /**
   * @param {number} width in pixels
   * @param {number} height
   * @returns {import('./renderer.js').Camera} the shorter side sees the angle of the view
   */
  camera(width, height) {
    const [right, up, back] = this.axes()
    const focal = Math.min(width, height) / 2 / TAN_HALF_FOV
    const pose = [0, 1, 2].flatMap((axis) => {
      return [right[axis], up[axis], back[axis], this.target[axis] + this.distance * back[axis]]
    })
    return { pose: [...pose, 0, 0, 0, 1], fx: focal, fy: focal, cx: width / 2, cy: height / 2, width, height }
  }

  /** @param {number} yaw @param {number} pitch by which to turn, in radians */
  turn(yaw, pitch) {
    this.yaw += yaw
    this.pitch = Math.min(MAX_PITCH, Math.max(-MAX_PITCH, this.pitch + pitch))
  }

  /** @param {number} factor on the distance */
  zoom(factor) {
    this.distance = Math.min(FARTHEST * this.radius, Math.max(NEAREST * this.radius, this.distance * factor))
  }

  /**
   * Move along the camera's axes.
   *
   * @param {number} right in parts of the distance, as all of them
   * @param {number} up
   * @param {number} forward
   */
  move(right, up, forward) {
    const axes = this.axes()
    this.target = this.target.map((value, axis) => {
      return value + this.distance * (right * axes[0][axis] + up * axes[1][axis] - forward * axes[2][axis])
    })
  }

  /**
   * Move with the picture under a pointer.
   *
   * @param {number} x in parts of the view's shorter side
   * @param {number} y downwards
   */
  pan(x, y) {
    this.move(-2 * TAN_HALF_FOV * x, 2 * TAN_HALF_FOV * y, 0)
  }

  /** The view as a text for a link. */
  toString() {
    return [...this.target, this.yaw, this.pitch, this.distance].map((value) => Number(value.toPrecision(DIGITS))).join(',')
  }

  /**
   * Take a view from a text; one that is none changes nothing.
   *
   * @param {string} text
   */
  parse(text) {
    const numbers = text.split(',').map(Number)
    if (numbers.length !== 6 || !numbers.every(Number.isFinite)) return false
    const [x, y, z, yaw, pitch, distance] = numbers
    this.target = [x, y, z]
    this.yaw = yaw
    this.pitch = 0
    this.turn(0, pitch)
    this.distance = Math.abs(distance)
    this.zoom(1)
    return true
  }
}
