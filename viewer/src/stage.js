/**
 * When to draw what: as many pixels as can be had while the camera moves, ever larger pictures when it rests, then ever smoother edges.
 *
 * One number is steered: how many pixels the graphics processor draws in the time of a frame.
 */

import { Controls } from './controls.js'
import { Orbit } from './orbit.js'
import { areaOf, LADDER, movingShare, nextShare, piecesOf } from './refine.js'
import { CANNOT, NoGraphics, Renderer, resized } from './renderer.js'
import { claim, giveBack, settle } from './slots.js'

/** Milliseconds that the drawing of a frame should take, so that 30 fit into a second. */
const FRAME_MS = 28
/** Pixels of the first frame, before anything is known: with a network at each sample, and without. */
const FIRST_PIXELS = { slow: 48 * 48, fast: 160 * 160 }
const LEAST_PIXELS = 32 * 32
/** How fast the number of pixels follows what a frame took. */
const MOST_GROWTH = 2
const MOST_SHRINKING = 0.4
/** Milliseconds after which a camera rests. */
const REST_MS = 120
/** Milliseconds for which a camera that was moved keeps its graphics, whoever else wants them. */
const HELD_MS = 1000
/** A coarse field at rest is drawn at so much of its sides: the cores are wanted for the whole one. */
const COARSE_SHARE = 1 / 4
/** Samples of a ray share one colour so long as they hold less of its light than this: in small pictures, and in the first whole one,
 * which the next takes the place of. */
const SHARED = 0.5
const FIRST_SHARED = 0.1
/** Pictures that are averaged at rest. */
const PASSES = 16
/** More pixels to one of the page are not worth their price. */
const MAX_PIXEL_RATIO = 1.5
/** Sides of the canvas to those of a smaller picture: so far it is enlarged well, from there on by the page, which costs less. */
const ENLARGED = 2
/** Radians a second of a scene that turns by itself. */
const TURN = 0.35
/** A scene begins to turn by itself only where so much of its area is drawn in a frame. */
const TURN_SHARE = 1 / 4
/** Parts a second of the way to where the camera was sent. */
const APPROACH = 8
/** Longest time that a frame stands for when turning, in seconds. */
const MAX_FRAME = 0.1
/** How often the system may take the graphics away before a picture is there: a scene may be more than they can draw in time. */
const MAX_LOSSES = 3

/**
 * @typedef {object} Progress
 * @property {number} width of the picture
 * @property {number} height
 * @property {number} passes finished at rest
 */

/**
 * @typedef {object} Events
 * @property {() => void} onFrame a picture is on the canvas
 * @property {() => void} onMove the view has changed
 * @property {(isLost: boolean) => void} onLost the graphics were reset, or are back
 * @property {(error: unknown) => void} onFail there are no graphics
 */

export class Stage {
  /** @type {Renderer | undefined} while this viewer has graphics */
  renderer
  /** @type {import('./textures.js').Drawn | undefined} */
  drawn
  /** @type {[number, number, number] | undefined} in place of the file's */
  background
  /** @type {Orbit | undefined} */
  orbit
  /** Of the whole picture, in pixels of the screen. */
  size = { width: 1, height: 1 }
  pixels = FIRST_PIXELS.fast
  /** Of the picture that is shown; 0 before the first. */
  share = 0
  /** Pictures of the whole size that were averaged. */
  pass = 0
  /** @type {{ share: number, pieces: import('./refine.js').Piece[], width: number, height: number } | undefined} */
  plan
  hasMoved = false
  isBusy = false
  isVisible = false
  isLost = false
  /** How often in a row graphics were lost without a whole picture between. */
  losses = 0
  /** Whether the camera goes at once where it is sent. */
  isStill = false
  /** Whether the scene turns by itself: at once, as soon as it does so smoothly, or not. */
  turning = /** @type {'yes' | 'smoothly' | 'no'} */ ('no')
  request = 0
  lastTick = 0
  lastMove = 0
  /** Drawn so far. */
  frames = 0
  /** @type {(() => void)[]} */
  awaiting = []

  /**
   * @param {HTMLElement} surface what a person drags; the canvas goes in it
   * @param {Events} events
   * @param {import('./controls.js').Manners} manners
   */
  constructor(surface, events, manners) {
    this.surface = surface
    this.events = events
    /** What was seen last, while there are no graphics. */
    this.still = surface.appendChild(document.createElement('canvas'))
    this.still.hidden = true
    this.controls = new Controls(surface, () => this.orbit, manners)
  }

  get canvas() {
    return this.renderer?.canvas
  }

  /** How much this viewer wants its graphics: as of `Holder`. */
  need() {
    if (!this.isVisible) return 0
    if (this.hasMoved || performance.now() - this.lastMove < HELD_MS || this.turning === 'yes') return 3
    return this.drawn && this.pass ? 1 : 2
  }

  /** Graphics are there: draw. As of `Holder`. */
  grant() {
    const canvas = document.createElement('canvas')
    canvas.hidden = true
    try {
      this.renderer = new Renderer(canvas)
      this.surface.prepend(canvas)
      canvas.addEventListener('webglcontextlost', (event) => {
        if (this.canvas !== canvas) return
        this.isLost = true
        this.losses = this.pass ? 1 : this.losses + 1
        const isHopeful = this.losses < MAX_LOSSES
        this.events.onLost(isHopeful)
        if (isHopeful) event.preventDefault()
        else this.events.onFail(new NoGraphics(CANNOT))
      })
      canvas.addEventListener('webglcontextrestored', () => {
        if (this.canvas !== canvas) return
        this.isLost = false
        this.renderer?.restore()
        this.begin()
        this.events.onLost(false)
      })
      if (this.drawn) this.renderer.setField(this.drawn)
      this.begin()
    } catch (error) {
      this.renderer = undefined
      this.events.onFail(error)
    }
    for (const resolve of this.awaiting.splice(0)) resolve()
  }

  /** Give the graphics back, and keep a still of the picture. As of `Holder`. */
  release() {
    const { renderer, still } = this
    if (!renderer) return
    const { canvas } = renderer
    if (this.share && !this.isLost) {
      this.show()
      Object.assign(still, { width: canvas.width, height: canvas.height })
      still.getContext('2d')?.drawImage(canvas, 0, 0)
      still.hidden = false
    }
    this.renderer = undefined
    this.isLost = false
    cancelAnimationFrame(this.request)
    this.request = 0
    canvas.remove()
    renderer.destroy()
    queueMicrotask(() => {
      if (this.isVisible && !this.pass) claim(this)
    })
  }

  /**
   * Wait for graphics, which a viewer out of sight does not get.
   *
   * @returns {Promise<Renderer | undefined>} nothing if there are none
   */
  async graphics() {
    if (!this.renderer) {
      const granted = new Promise((/** @type {(value: void) => void} */ resolve) => this.awaiting.push(resolve))
      if (this.isVisible) claim(this)
      await granted
    }
    return this.renderer
  }

  /** Give everything back. The stage is of no use any more until it is visible again. */
  destroy() {
    this.isVisible = false
    giveBack(this)
  }

  /**
   * @param {import('./textures.js').Drawn} drawn
   * @param {boolean} keepCamera of the field before
   * @param {import('./about.js').About} about
   */
  setField(drawn, keepCamera, about) {
    this.renderer?.setField(drawn)
    this.drawn = drawn
    this.pixels = drawn.layers.length ? FIRST_PIXELS.slow : FIRST_PIXELS.fast
    if (!this.orbit || !keepCamera) this.orbit = new Orbit(drawn.extent.lo, drawn.extent.hi, about)
    this.begin()
    this.events.onMove()
  }

  /** @param {Parameters<Renderer['warmUp']>[0]} field that will be there soon, and is the first */
  warmUp(field) {
    try {
      if (!this.orbit) this.renderer?.warmUp(field)
    } catch {
      // It will say so when the field is there.
    }
  }

  /** Nothing of what is shown is of use: climb from the first step. */
  begin() {
    this.share = this.pass = 0
    this.plan = undefined
    this.hasMoved = false
    this.wake()
  }

  /** The picture is no longer what the camera sees. */
  moved() {
    this.hasMoved = true
    this.events.onMove()
    this.wake()
  }

  /** @param {boolean} isVisible */
  setVisible(isVisible) {
    if (this.isVisible === isVisible) return
    this.isVisible = isVisible
    if (isVisible && (this.drawn || this.awaiting.length)) claim(this)
    if (isVisible) this.wake()
    else settle()
  }

  /** @param {'yes' | 'smoothly' | 'no'} turning */
  turn(turning) {
    this.turning = turning
    this.wake()
  }

  wake() {
    if (!this.isVisible || !this.drawn || this.request || this.isLost) return
    if (this.renderer) this.request = requestAnimationFrame((now) => this.tick(now))
    else if (this.hasMoved || !this.share || this.turning === 'yes') claim(this)
  }

  /** The surface has another size. */
  resized() {
    if (this.share) this.moved()
    else this.wake()
  }

  /** Look how many pixels the canvas covers. */
  fit() {
    const ratio = Math.min(globalThis.devicePixelRatio || 1, MAX_PIXEL_RATIO)
    const [width, height] = [this.surface.clientWidth, this.surface.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)))
    if (this.size.width === width && this.size.height === height) return
    this.size = { width, height }
    if (this.share) this.moved()
  }

  /** The view as a camera of the whole picture's size. */
  camera() {
    return this.orbit?.camera(this.size.width, this.size.height)
  }

  /** @param {number} now in milliseconds */
  tick(now) {
    this.request = 0
    const { orbit, renderer } = this
    if (!orbit || !renderer?.drawn || !this.isVisible || this.isLost) return
    const seconds = (now - this.lastTick) / 1000
    this.lastTick = now
    if (this.controls.advance(seconds) || orbit.follow(this.isStill ? 1 : 1 - Math.exp(-APPROACH * seconds))) this.moved()
    if (this.turning === 'smoothly' && this.pass && this.pixels >= TURN_SHARE * this.size.width * this.size.height) this.turning = 'yes'
    if (this.turning === 'yes') {
      orbit.spin(TURN * Math.min(seconds, MAX_FRAME))
      this.moved()
    }
    if (this.isBusy) {
      this.wake()
      return
    }
    this.fit()
    if (this.hasMoved && this.share) {
      this.hasMoved = false
      this.drawMoving(renderer, now)
    } else if (!this.share || now - this.lastMove > REST_MS) {
      this.hasMoved = false
      this.drawResting(renderer)
    }
    if (renderer.drawn.isCoarse ? this.share < COARSE_SHARE : this.pass < (renderer.canAccumulate ? PASSES : 1)) this.wake()
    if (this.pass) settle()
  }

  /** @param {number} share of the whole picture's sides; gives sides in pixels */
  sides(share) {
    return [this.size.width, this.size.height].map((side) => Math.max(1, Math.round(share * side)))
  }

  /** @param {Renderer} renderer @param {number} now */
  drawMoving(renderer, now) {
    const { size } = this
    const isMoving = now - this.lastMove < REST_MS
    const share = movingShare(this.pixels, FRAME_MS, size.width * size.height, isMoving ? this.share : 0)
    const [width, height] = this.sides(share)
    renderer.resizePicture(width, height)
    this.plan = undefined
    this.pass = 0
    this.draw([{ left: 0, right: width, from: 0, to: height }], width, height, true)
    this.share = share
    if (share === 1) this.pass = 1
    this.show()
    this.lastMove = now
  }

  /** Go on with the next size, or with the whole one. @param {Renderer} renderer */
  drawResting(renderer) {
    if (!this.plan) {
      const share = nextShare(this.share || (this.drawn?.isCoarse ? 0 : LADDER[0]))
      const [width, height] = this.sides(share)
      this.plan = { share, width, height, pieces: piecesOf(width, height, this.pixels) }
    }
    const { share, width, height, pieces } = this.plan
    // Smaller pictures are shown when they are complete; of the whole one each piece only makes what is there sharper.
    const isShown = this.share > 0 && share === 1
    if (isShown) renderer.resizePicture(width, height)
    else renderer.resizeNext(width, height)
    const due = []
    for (let area = 0; pieces.length && area < this.pixels; ) {
      const piece = /** @type {import('./refine.js').Piece} */ (pieces.shift())
      area += areaOf(piece)
      due.push(piece)
    }
    this.draw(due, width, height, isShown)
    if (!pieces.length) {
      this.plan = undefined
      this.share = share
      if (share === 1) this.pass++
      if (!isShown) renderer.takeNext()
    }
    if (isShown || !pieces.length) this.show()
  }

  /**
   * @param {import('./refine.js').Piece[]} pieces
   * @param {number} width of the picture
   * @param {number} height
   * @param {boolean} isShown else it is the next picture
   */
  draw(pieces, width, height, isShown) {
    const { renderer } = this
    const camera = this.camera()
    const target = isShown ? renderer?.picture : renderer?.next
    if (!renderer || !camera || !target) return
    const shared = width < this.size.width ? SHARED : this.pass || !renderer.canAccumulate ? 0 : FIRST_SHARED
    for (const piece of pieces) renderer.drawPiece(target, resized(camera, width, height), piece, this.pass, shared)
    this.frames++
    this.measure(pieces.reduce((sum, piece) => sum + areaOf(piece), 0))
  }

  /** Put the picture on the canvas. */
  show() {
    const { renderer, size, still } = this
    if (!renderer) return
    const { canvas, picture } = renderer
    const [width, height] = [picture?.width ?? 1, picture?.height ?? 1]
    const sides = [Math.min(size.width, ENLARGED * width), Math.min(size.height, ENLARGED * height)]
    if (canvas.width !== sides[0]) canvas.width = sides[0]
    if (canvas.height !== sides[1]) canvas.height = sides[1]
    renderer.background = this.background
    renderer.show()
    canvas.hidden = false
    still.hidden = true
    this.events.onFrame()
  }

  /**
   * Learn how many pixels can be drawn in the time of a frame.
   *
   * @param {number} pixels that have just been asked for
   */
  async measure(pixels) {
    const start = performance.now()
    this.isBusy = true
    await this.renderer?.finished()
    this.isBusy = false
    const ratio = FRAME_MS / Math.max(performance.now() - start, 1)
    const isTypical = pixels > this.pixels / 2 || ratio < 1
    // More pixels may be drawn than fit into a frame: what is left of the old number bounds how fast it falls.
    if (isTypical) this.pixels = Math.max(LEAST_PIXELS, MOST_SHRINKING * this.pixels, pixels * Math.min(MOST_GROWTH, ratio))
  }

  /** @returns {Progress} */
  progress() {
    const picture = this.renderer?.picture
    const [width, height] = [picture?.width ?? 0, picture?.height ?? 0]
    return { width, height, passes: this.pass }
  }
}
