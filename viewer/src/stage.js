/**
 * When to draw what: as many pixels as can be had while the camera moves, ever larger pictures when it rests, then ever smoother edges.
 *
 * One number is steered: how many pixels the graphics processor draws in the time of a frame.
 */

import { Controls } from './controls.js'
import { Orbit } from './orbit.js'
import { areaOf, movingShare, nextShare, piecesOf } from './refine.js'
import { Renderer, resized } from './renderer.js'

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
/** Pictures that are averaged at rest. */
const PASSES = 16
/** More pixels to one of the page are not worth their price. */
const MAX_PIXEL_RATIO = 1.5
/** Sides of the canvas to those of a smaller picture: so far it is enlarged well, from there on by the page, which costs less. */
const ENLARGED = 2
/** Weight of the newest frame in the frame rate that is shown. */
const RATE_WEIGHT = 0.1

/**
 * @typedef {object} Progress
 * @property {number} framesPerSecond of the moving picture, 0 if it has not moved
 * @property {number} width of the picture
 * @property {number} height
 * @property {number} passes finished at rest
 */

export class Stage {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{ onFrame: () => void, onMove: () => void, onLost: (isLost: boolean) => void }} events
   */
  constructor(canvas, events) {
    this.canvas = canvas
    this.events = events
    this.renderer = new Renderer(canvas)
    /** @type {Orbit | undefined} */
    this.orbit = undefined
    this.controls = new Controls(canvas, () => this.orbit, () => this.moved())
    this.resolution = 0
    /** Of the whole picture, in pixels of the screen. */
    this.size = { width: 1, height: 1 }
    this.pixels = FIRST_PIXELS.fast
    /** Of the picture that is shown; 0 before the first. */
    this.share = 0
    /** Pictures of the whole size that were averaged. */
    this.pass = 0
    /** @type {{ share: number, pieces: import('./refine.js').Piece[], width: number, height: number } | undefined} */
    this.plan = undefined
    this.hasMoved = false
    this.isBusy = false
    this.isVisible = true
    this.isLost = false
    this.request = 0
    this.lastTick = 0
    this.lastMove = 0
    this.lastFrame = 0
    this.framesPerSecond = 0
    /** Drawn so far. */
    this.frames = 0
    canvas.addEventListener('webglcontextlost', (event) => {
      event.preventDefault()
      this.isLost = true
      events.onLost(true)
    })
    canvas.addEventListener('webglcontextrestored', () => {
      this.isLost = false
      this.renderer.restore()
      this.moved()
      events.onLost(false)
    })
  }

  /**
   * @param {import('./textures.js').Drawn} drawn
   * @param {boolean} keepCamera of the field before
   */
  setField(drawn, keepCamera) {
    this.renderer.setField(drawn)
    this.pixels = drawn.layers.length ? FIRST_PIXELS.slow : FIRST_PIXELS.fast
    if (!this.orbit || !keepCamera) this.orbit = new Orbit(drawn.extent.lo, drawn.extent.hi)
    this.begin()
    this.events.onMove()
  }

  /** @param {Parameters<Renderer['warmUp']>[0]} field that will be there soon, and is the first */
  warmUp(field) {
    try {
      if (!this.orbit) this.renderer.warmUp(field)
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
    this.isVisible = isVisible
    if (isVisible) this.wake()
  }

  /** @param {number} share of the canvas's sides that are drawn at most; 0 leaves it to the frame rate */
  setResolution(share) {
    this.resolution = share
    this.moved()
  }

  wake() {
    if (!this.request && this.isVisible && !this.isLost) this.request = requestAnimationFrame((now) => this.tick(now))
  }

  /** Look how many pixels the canvas covers. */
  fit() {
    const ratio = Math.min(globalThis.devicePixelRatio || 1, MAX_PIXEL_RATIO)
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)))
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
    if (!orbit || !renderer.drawn || !this.isVisible || this.isLost) return
    if (this.controls.advance((now - this.lastTick) / 1000)) this.moved()
    this.lastTick = now
    if (this.isBusy) {
      this.wake()
      return
    }
    this.fit()
    if (this.hasMoved) {
      this.hasMoved = false
      this.drawMoving(now)
    } else if (!this.share || now - this.lastMove > REST_MS) {
      this.drawResting()
    }
    if (this.pass < (renderer.canAccumulate ? PASSES : 1)) this.wake()
  }

  /** @param {number} share of the whole picture's sides @returns {[number, number]} sides in pixels */
  sides(share) {
    const { width, height } = this.size
    return [Math.max(1, Math.round(share * width)), Math.max(1, Math.round(share * height))]
  }

  /** @param {number} now */
  drawMoving(now) {
    const { renderer, size, resolution } = this
    const most = resolution || 1
    const isMoving = now - this.lastMove < REST_MS
    const share = resolution || movingShare(this.pixels, FRAME_MS, size.width * size.height, isMoving ? this.share : 0)
    const [width, height] = this.sides(share)
    renderer.resizePicture(width, height)
    this.plan = undefined
    this.pass = 0
    this.draw([{ left: 0, right: width, from: 0, to: height }], width, height, true)
    this.share = share
    if (share === most) this.pass = 1
    this.show()
    const elapsed = now - this.lastFrame
    this.lastFrame = now
    if (isMoving && elapsed > 0) {
      const before = this.framesPerSecond || 1000 / elapsed
      this.framesPerSecond = before + RATE_WEIGHT * (1000 / elapsed - before)
    }
    this.lastMove = now
  }

  /** Go on with the next size, or with the whole one. */
  drawResting() {
    const { renderer } = this
    const most = this.resolution || 1
    if (!this.plan) {
      const share = nextShare(this.share, most)
      const [width, height] = this.sides(share)
      this.plan = { share, width, height, pieces: piecesOf(width, height, this.pixels) }
    }
    const { share, width, height, pieces } = this.plan
    // Smaller pictures are shown when they are complete; of the whole one each piece only makes what is there sharper.
    const isShown = this.share > 0 && share === most
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
      if (share === most) this.pass++
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
    const target = isShown ? renderer.picture : renderer.next
    if (!camera || !target) return
    for (const piece of pieces) renderer.drawPiece(target, resized(camera, width, height), piece, this.pass)
    this.frames++
    this.measure(pieces.reduce((sum, piece) => sum + areaOf(piece), 0))
  }

  /** Put the picture on the canvas. */
  show() {
    const { canvas, size, renderer } = this
    const [width, height] = [renderer.picture?.width ?? 1, renderer.picture?.height ?? 1]
    const sides = [Math.min(size.width, ENLARGED * width), Math.min(size.height, ENLARGED * height)]
    if (canvas.width !== sides[0]) canvas.width = sides[0]
    if (canvas.height !== sides[1]) canvas.height = sides[1]
    renderer.show()
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
    await this.renderer.finished()
    this.isBusy = false
    const ratio = FRAME_MS / Math.max(performance.now() - start, 1)
    const isTypical = pixels > this.pixels / 2 || ratio < 1
    if (isTypical) this.pixels = Math.max(LEAST_PIXELS, pixels * Math.min(MOST_GROWTH, Math.max(MOST_SHRINKING, ratio)))
  }

  /** @returns {Progress} */
  progress() {
    const { picture } = this.renderer
    const [width, height] = [picture?.width ?? 0, picture?.height ?? 0]
    return { framesPerSecond: this.framesPerSecond, width, height, passes: this.pass }
  }
}
