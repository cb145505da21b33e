/** Pointers, wheel and keys to the movements of an `Orbit`, as far as the page leaves them to the viewer. */

/** Radians for a drag across the view's shorter side. */
const TURN = Math.PI
/** The same in flight, where the camera turns, and not the scene. */
const LOOK = TURN / 3
/** Radians a second for a held key; in flight, where looking up turns the camera down about a scene. */
const KEY_TURN = 1.5
const KEY_LOOK = -0.8
/** Parts of the distance a second. */
const KEY_MOVE = 0.8
const KEY_ZOOM = 2
const WHEEL_ZOOM = 0.0015
/** A wheel that counts in lines or pages. */
const LINE_PIXELS = [1, 16, 400]
/** Longest time that a frame stands for, in seconds, so that a hitch is no jump. */
const MAX_FRAME = 0.1

/** What a held key does: moves to the right, up and forward, turns to the right and up, and goes away. @type {Record<string, number[]>} */
const HELD = {
  KeyW: [0, 0, 1],
  KeyS: [0, 0, -1],
  KeyA: [-1],
  KeyD: [1],
  KeyE: [0, 1],
  KeyQ: [0, -1],
  ArrowLeft: [0, 0, 0, -1],
  ArrowRight: [0, 0, 0, 1],
  ArrowUp: [0, 0, 0, 0, 1],
  ArrowDown: [0, 0, 0, 0, -1],
  Equal: [0, 0, 0, 0, 0, -1],
  Minus: [0, 0, 0, 0, 0, 1],
  NumpadAdd: [0, 0, 0, 0, 0, -1],
  NumpadSubtract: [0, 0, 0, 0, 0, 1],
}

/**
 * @param {import('./orbit.js').Orbit} orbit
 * @param {string} code of a key
 * @param {number} seconds for which it is held
 */
function hold(orbit, code, seconds) {
  const [right = 0, up = 0, forward = 0, yaw = 0, pitch = 0, away = 0] = HELD[code].map((value) => value * seconds)
  const turn = orbit.isFlying ? KEY_LOOK : KEY_TURN
  orbit.move(KEY_MOVE * right, KEY_MOVE * up, KEY_MOVE * forward)
  orbit.steer(turn * yaw, turn * pitch)
  orbit.approach(KEY_ZOOM ** away)
}

/** What a key does at least when it is only tapped. */
const TAP = 1 / 30

/**
 * @typedef {object} Manners what a viewer does with gestures, and says of them
 * @property {() => 'auto' | 'none' | 'ctrl'} interaction
 * @property {() => boolean} isPageScrolling whether wheel and fingers may be meant for the page
 * @property {() => void} onTouched a person has taken over
 * @property {() => void} changed the camera moved, or will with the next frames
 * @property {() => void} onRefused a gesture was left to the page, which it was perhaps not meant for
 * @property {(x: number, y: number) => void} onPointed a place was double-clicked, in pixels of the surface
 */

export class Controls {
  /** @type {Map<number, { x: number, y: number }>} */
  pointers = new Map()
  /** @type {Set<string>} */
  held = new Set()
  /** Whether the person is busy with the scene, and not with the page around it. */
  isTaken = false

  /**
   * @param {HTMLElement} surface
   * @param {() => import('./orbit.js').Orbit | undefined} orbit
   * @param {Manners} manners
   */
  constructor(surface, orbit, manners) {
    this.surface = surface
    this.orbit = orbit
    this.manners = manners
    surface.addEventListener('pointerdown', (event) => this.down(event))
    surface.addEventListener('pointermove', (event) => this.drag(event))
    for (const end of /** @type {const} */ (['pointerup', 'pointercancel'])) {
      surface.addEventListener(end, ({ pointerId }) => this.pointers.delete(pointerId))
    }
    surface.addEventListener('pointerleave', () => (this.isTaken = false))
    surface.addEventListener('contextmenu', (event) => {
      if (manners.interaction() !== 'none') event.preventDefault()
    })
    surface.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
    surface.addEventListener('keydown', (event) => this.key(event))
    surface.addEventListener('keyup', ({ code }) => this.held.delete(code))
    surface.addEventListener('blur', () => this.held.clear())
    surface.addEventListener('dblclick', ({ offsetX, offsetY }) => {
      if (manners.interaction() !== 'none') manners.onPointed(offsetX, offsetY)
    })
    this.settle()
  }

  /** Say which gestures of fingers the browser keeps for the page. */
  settle() {
    const { interaction, isPageScrolling } = this.manners
    const kept = { none: 'auto', ctrl: 'pan-x pan-y', auto: isPageScrolling() ? 'pan-y' : 'none' }
    this.surface.style.touchAction = kept[interaction()]
  }

  /** @param {PointerEvent} event */
  down(event) {
    if (this.manners.interaction() === 'none') return
    this.isTaken = true
    this.surface.setPointerCapture(event.pointerId)
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY })
    this.manners.onTouched()
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
      if (before > 0 && after > 0) orbit.approach(before / after)
      orbit.pan(x / 2, y / 2)
    } else if (event.pointerType === 'touch' && this.manners.interaction() === 'ctrl') {
      this.manners.onRefused()
      return
    } else if (event.buttons & 6 || event.shiftKey) {
      orbit.pan(x, y)
    } else {
      const turn = orbit.isFlying ? LOOK : TURN
      orbit.steer(-turn * x, turn * y)
    }
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY })
    this.manners.changed()
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    const { interaction, isPageScrolling, onRefused, onTouched, changed } = this.manners
    const isMeant = event.ctrlKey || event.metaKey || (interaction() === 'auto' && (this.isTaken || !isPageScrolling()))
    if (interaction() === 'none' || !isMeant) {
      if (interaction() === 'ctrl') onRefused()
      return
    }
    event.preventDefault()
    onTouched()
    this.orbit()?.approach(Math.exp(event.deltaY * LINE_PIXELS[event.deltaMode] * WHEEL_ZOOM))
    changed()
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const orbit = this.orbit()
    if (!orbit || event.ctrlKey || event.metaKey || event.altKey || this.manners.interaction() === 'none') return
    if (event.code === 'KeyR' || event.code === 'Home') orbit.reset()
    else if (!(event.code in HELD)) return
    else if (!event.repeat) {
      hold(orbit, event.code, TAP)
      this.held.add(event.code)
    }
    event.preventDefault()
    this.manners.onTouched()
    this.manners.changed()
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
    for (const code of this.held) hold(orbit, code, Math.min(seconds, MAX_FRAME))
    return true
  }
}
