/** A camera that turns around a point: its place as a few numbers, and how they change. */

/** Half the view's height, seen from distance 1. */
const TAN_HALF_FOV = Math.tan((20 * Math.PI) / 180)
const MAX_PITCH = Math.PI / 2 - 0.01
/** What a reset looks from where nobody says anything else; `vqrf/rendering/poster.py` draws its picture from there. */
const START = { yaw: -0.9, pitch: 0.45 }
/** What is there fills at most so much of the picture's side, whatever way it is turned about what is up. */
const FILLED = 0.92
const N_TURNS = 32
/** Of the radius of the field. */
const NEAREST = 0.02
const FARTHEST = 20
/** Of the distance, where a camera has arrived. */
const NEAR_ENOUGH = 0.003
/** Digits that a link to a view carries. */
const DIGITS = 5
const RADIANS = Math.PI / 180
const TURN = 2 * Math.PI
const ANYWHERE = [-Infinity, Infinity]

/** @typedef {[number, number, number]} Vector */

/**
 * The rotation that takes z to a direction by the shortest way, row by row: `vqrf.cameras.upright`.
 *
 * @param {readonly number[]} up
 * @returns {Vector[]}
 */
function upright(up) {
  const [x, y, z] = up.map((value) => value / Math.hypot(...up))
  if (z < -1 + 1e-9) return [[1, 0, 0], [0, -1, 0], [0, 0, -1]] // half a turn, about x
  return [
    [1 - (x * x) / (1 + z), (-x * y) / (1 + z), x],
    [(-x * y) / (1 + z), 1 - (y * y) / (1 + z), y],
    [-x, -y, z],
  ]
}

/** @param {number} value @param {readonly number[]} range */
const within = (value, [least, most]) => Math.min(most, Math.max(least, value))

export class Orbit {
  /** Whether a person turns and moves the camera, and not the scene before it. */
  isFlying = false
  middle = 0
  /** Whether it turns to the left by itself, or to the right. */
  way = 1
  /** @type {readonly number[]} how far it may turn away from `middle` */
  yaws = ANYWHERE
  /** @type {number[] | undefined} where the camera is sent: a target and a distance */
  goal
  yaw = 0
  pitch = 0
  distance = 1
  /** @type {readonly number[]} */
  distances = []
  /** @type {readonly number[]} */
  pitches = []

  /**
   * @param {readonly number[]} lo of what is to be seen
   * @param {readonly number[]} hi
   * @param {Partial<import('./about.js').About> & { frame?: number[] }} [about] what is up, the first view, limits; `frame`: half the
   *   sides of what may be seen, from distance 1
   */
  constructor(lo, hi, { up = [0, 0, 1], view, distance, pitch, yaw, frame } = {}) {
    this.yaws = yaw && yaw[1] - yaw[0] < 360 ? yaw.map((degrees) => degrees * RADIANS) : ANYWHERE
    this.frame = frame ?? [9, 9] // more than any picture sees
    this.center = lo.map((value, axis) => (value + hi[axis]) / 2)
    this.radius = Math.hypot(...lo.map((value, axis) => hi[axis] - value)) / 2
    this.half = lo.map((value, axis) => (hi[axis] - value) / 2)
    this.turned = upright(up)
    this.first = view
    this.target = this.center
    this.limit(distance, pitch)
    this.reset()
  }

  /**
   * @param {readonly number[]} [distance] the least and the most, in world units
   * @param {readonly number[]} [pitch] above the horizon, in degrees
   */
  limit(distance, pitch) {
    this.distances = distance ?? [NEAREST * this.radius, FARTHEST * this.radius]
    this.pitches = (pitch ?? [-90, 90]).map((degrees) => within(degrees * RADIANS, [-MAX_PITCH, MAX_PITCH]))
    this.turn(0, 0)
    this.zoom(1)
  }

  reset() {
    const { yaws } = this
    this.yaws = ANYWHERE
    this.target = [...this.center]
    this.yaw = START.yaw
    this.pitch = START.pitch
    this.turn(0, 0)
    this.distance = this.fit()
    if (this.first) this.look(this.first.position, this.first.target)
    this.zoom(1)
    Object.assign(this, { yaws, middle: this.yaw })
  }

  /** The distance from which all of the field is in the picture, whatever way it is turned about what is up. */
  fit() {
    const [cp, sp] = [Math.cos(this.pitch), Math.sin(this.pitch)]
    let distance = 0
    for (let corner = 0; corner < 8; corner++) {
      const offset = this.half.map((side, axis) => ((corner >> axis) & 1 ? side : -side))
      const [x, y, z] = this.fromWorld(offset)
      for (let turn = 0; turn < N_TURNS; turn++) {
        const [c, s] = [Math.cos((2 * Math.PI * turn) / N_TURNS), Math.sin((2 * Math.PI * turn) / N_TURNS)]
        const [ahead, aside] = [x * c + y * s, y * c - x * s]
        const reach = Math.max(Math.abs(aside), Math.abs(cp * z - sp * ahead))
        distance = Math.max(distance, cp * ahead + sp * z + reach / (FILLED * TAN_HALF_FOV))
      }
    }
    return distance
  }

  /** @param {readonly number[]} v of the frame in which z is up */
  toWorld(v) {
    return this.turned.map((row) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2])
  }

  /** @param {readonly number[]} v gives it in that frame */
  fromWorld(v) {
    return [0, 1, 2].map((axis) => v.reduce((sum, value, row) => sum + value * this.turned[row][axis], 0))
  }

  /** Columns of the camera's rotation: right, up, back. */
  axes() {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)]
    return [
      [-sy, cy, 0],
      [-sp * cy, -sp * sy, cp],
      [cp * cy, cp * sy, sp],
    ].map((axis) => this.toWorld(axis))
  }

  /** @returns {Vector} */
  get position() {
    const back = this.axes()[2]
    return /** @type {Vector} */ (this.target.map((value, axis) => value + this.distance * back[axis]))
  }

  /**
   * Stand somewhere and look at a point, as far as limits allow.
   *
   * @param {readonly number[]} position
   * @param {readonly number[]} target
   */
  look(position, target) {
    const away = position.map((value, axis) => value - target[axis])
    const length = Math.hypot(...away)
    if (!(length > 0)) return
    const [x, y, z] = this.fromWorld(away)
    this.target = [...target]
    if (Math.hypot(x, y) > 1e-9 * length) this.yaw = Math.atan2(y, x)
    this.pitch = 0
    this.turn(0, Math.asin(z / length))
    this.distance = length
    this.zoom(1)
  }

  /**
   * Go some of the way to where the camera was sent: `goal`, a target and a distance.
   *
   * @param {number} share of what is left of it
   * @returns {boolean} whether the camera moved
   */
  follow(share) {
    const { goal } = this
    if (!goal) return false
    const toward = (/** @type {number} */ value, /** @type {number} */ end) => value + share * (end - value)
    this.target = this.target.map((value, axis) => toward(value, goal[axis]))
    this.distance = toward(this.distance, goal[3])
    this.zoom(1)
    if (share === 1 || Math.abs(this.distance - goal[3]) < NEAR_ENOUGH * goal[3]) this.goal = undefined
    return true
  }

  /**
   * @param {number} width in pixels
   * @param {number} height
   * @returns {import('./renderer.js').Camera} the shorter side sees the angle of the view; before what was seen from one side, no
   *   side sees more than that
   */
  camera(width, height) {
    const columns = [...this.axes(), this.position]
    const [aside, above] = this.frame
    const focal = Math.max(width / aside, height / above, Math.min(width, height) / TAN_HALF_FOV) / 2
    const pose = [0, 1, 2].flatMap((axis) => columns.map((column) => column[axis]))
    return { pose: [...pose, 0, 0, 0, 1], fx: focal, fy: focal, cx: width / 2, cy: height / 2, width, height }
  }

  /** @param {number} yaw @param {number} pitch by which to turn, in radians */
  turn(yaw, pitch) {
    const [least, most] = this.yaws
    const away = this.yaw + yaw - this.middle
    this.yaw = this.middle + within(away - TURN * Math.round((away - ((least + most) / 2 || 0)) / TURN), this.yaws)
    this.pitch = within(this.pitch + pitch, this.pitches)
  }

  /** Turn about what is up, at the end of the way back. @param {number} angle in radians */
  spin(angle) {
    const { yaw } = this
    this.turn(this.way * angle, 0)
    if (angle && this.yaw === yaw) this.way = -this.way
  }

  /** @param {number} factor on the distance */
  zoom(factor) {
    this.distance = within(this.distance * factor, this.distances)
  }

  /** @param {number} yaw @param {number} pitch by which a person turns the scene, or in flight looks around, in radians */
  steer(yaw, pitch) {
    const { position } = this
    this.turn(yaw, pitch)
    if (this.isFlying) this.stand(position)
  }

  /** @param {number} factor on the distance; in flight the camera goes instead what of the distance that would be */
  approach(factor) {
    if (this.isFlying) this.move(0, 0, -Math.log(factor))
    else this.zoom(factor)
  }

  /**
   * Stand somewhere and look as before; only where a camera may stand that looks at what is seen first.
   *
   * @param {readonly number[]} position
   */
  stand(position) {
    const { yaw, pitch, distance } = this
    this.look(position, this.first?.target ?? this.center)
    const found = this.position
    Object.assign(this, { yaw, pitch, distance })
    const back = this.axes()[2]
    this.target = found.map((value, axis) => value - distance * back[axis])
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
    if (this.isFlying) this.stand(this.position)
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
