/** Pointers, wheel and keys to the movements of an `Orbit`. */

/** Radians for a drag across the view's shorter side. */
const TURN = Math.PI
/** Radians a second for a held key. */
const KEY_TURN = 1.5
/** Parts of the distance a second. */
const KEY_MOVE = 0.8
const KEY_ZOOM = 2
const WHEEL_ZOOM = 0.0015
/** A wheel that counts in lines or pages. */
const LINE_PIXELS = [1, 16, 400]
/** Longest time that a frame stands for, in seconds, so that a hitch is no jump. */
const MAX_FRAME = 0.1

/** @type {Record<string, (orbit: import('./orbit.js').Orbit, seconds: number) => void>} */
const HELD = {
  KeyW: (orbit, s) => orbit.move(0, 0, KEY_MOVE * s),
  KeyS: (orbit, s) => orbit.move(0, 0, -KEY_MOVE * s),
  KeyA: (orbit, s) => orbit.move(-KEY_MOVE * s, 0, 0),
  KeyD: (orbit, s) => orbit.move(KEY_MOVE * s, 0, 0),
  KeyE: (orbit, s) => orbit.move(0, KEY_MOVE * s, 0),
  KeyQ: (orbit, s) => orbit.move(0, -KEY_MOVE * s, 0),
  ArrowLeft: (orbit, s) => orbit.turn(-KEY_TURN * s, 0),
  ArrowRight: (orbit, s) => orbit.turn(KEY_TURN * s, 0),
  ArrowUp: (orbit, s) => orbit.turn(0, KEY_TURN * s),
  ArrowDown: (orbit, s) => orbit.turn(0, -KEY_TURN * s),
  Equal: (orbit, s) => orbit.zoom(KEY_ZOOM ** -s),
  Minus: (orbit, s) => orbit.zoom(KEY_ZOOM ** s),
  NumpadAdd: (orbit, s) => orbit.zoom(KEY_ZOOM ** -s),
  NumpadSubtract: (orbit, s) => orbit.zoom(KEY_ZOOM ** s),
}

/** What a key does at least when it is only tapped. */
const TAP = 1 / 30

export class Controls {
  /**
   * @param {HTMLElement} surface
   * @param {() => import('./orbit.js').Orbit | undefined} orbit
   * @param {() => void} changed the camera moved, or will with the next frames
   */
  constructor(surface, orbit, changed) {
    this.surface = surface
    this.orbit = orbit
    this.changed = changed
    /** @type {Map<number, { x: number, y: number }>} */
    this.pointers = new Map()
    /** @type {Set<string>} */
    this.held = new Set()
    surface.addEventListener('pointerdown', (event) => this.down(event))
    surface.addEventListener('pointermove', (event) => this.drag(event))
    for (const end of /** @type {const} */ (['pointerup', 'pointercancel'])) {
      surface.addEventListener(end, ({ pointerId }) => this.pointers.delete(pointerId))
    }
    surface.addEventListener('contextmenu', (event) => event.preventDefault())
    surface.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
    surface.addEventListener('keydown', (event) => this.key(event))
    surface.addEventListener('keyup', ({ code }) => this.held.delete(code))
    surface.addEventListener('blur', () => this.held.clear())
  }

  /** @param {PointerEvent} event */
  down(event) {
    this.surface.focus({ preventScroll: true })
    this.surface.setPointerCapture(event.pointerId)
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY })
    event.preventDefault()
  }

  /** @param {PointerEvent} event */
  drag(event) {
    const last = this.pointers.get(event.pointerId)
    const orbit = this.orbit()
    if (!last || !orbit) return
    const side = Math.min(this.surface.clientWidth, this.surface.clientHeight) || 1
    const [x, y] = [(event.clientX - last.x) / side, (event.clientY - last.y) / side]
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place)
    if (others.length) {
      // Two fingers: each moves the picture by its half, and their distance is the zoom.
      const reach = (/** @type {{ x: number, y: number }} */ p) => Math.hypot(p.x - others[0].x, p.y - others[0].y)
      const [before, after] = [reach(last), reach({ x: event.clientX, y: event.clientY })]
      if (before > 0 && after > 0) orbit.zoom(before / after)
      orbit.pan(x / 2, y / 2)
    } else if (event.buttons & 6 || event.shiftKey) {
      orbit.pan(x, y)
    } else {
      orbit.turn(-TURN * x, TURN * y)
    }
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY })
    this.changed()
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    event.preventDefault()
    this.orbit()?.zoom(Math.exp(event.deltaY * LINE_PIXELS[event.deltaMode] * WHEEL_ZOOM))
    this.changed()
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const orbit = this.orbit()
    if (!orbit || event.ctrlKey || event.metaKey || event.altKey) return
    if (event.code === 'KeyR' || event.code === 'Home') orbit.reset()
    else if (!(event.code in HELD)) return
    else if (!event.repeat) {
      HELD[event.code](orbit, TAP)
      this.held.add(event.code)
    }
    event.preventDefault()
    this.changed()
  }

  /**
   * Let held keys act.
   *
   * @param {number} seconds since the last frame
   * @returns {boolean} whether the camera moved
   */
  advance(seconds) {
    const orbit = this.orbit()
    if (!orbit || !this.held.size) return false
    for (const code of this.held) HELD[code](orbit, Math.min(seconds, MAX_FRAME))
    return true
  }
}
