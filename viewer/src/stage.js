/**
 * When to draw what: few pixels while the camera moves, all of them in slices when it rests, then ever smoother edges.
 *
 * One number is steered: how many pixels the graphics processor draws in the time of a frame.
 */

import { Controls } from './controls.js'
import { Orbit } from './orbit.js'
import { Renderer, resized } from './renderer.js'

/** Milliseconds that a frame should take. */
const FRAME_MS = 33
/** Pixels of the first frame, before anything is known: with a network at each sample, and without. */
const FIRST_PIXELS = { slow: 48 * 48, fast: 160 * 160 }
const LEAST_PIXELS = 32 * 32
/** How fast the number of pixels follows what a frame took. */
const MOST_GROWTH = 1.5
const MOST_SHRINKING = 0.4
/** Sizes of the moving picture: so many to one halving of its side. */
const SIZES_PER_HALVING = 4
/** Milliseconds after which a camera rests. */
const REST_MS = 120
/** Pictures that are averaged at rest. */
const PASSES = 16
/** More pixels to one of the page are not worth their price. */
const MAX_PIXEL_RATIO = 1.5
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
    this.pixels = FIRST_PIXELS.fast
    this.row = 0
    this.pass = 0
    this.hasMoved = true
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
    this.moved()
  }

  /** @param {Parameters<Renderer['warmUp']>[0]} field that will be there soon, and is the first */
  warmUp(field) {
    try {
      if (!this.orbit) this.renderer.warmUp(field)
    } catch {
      // It will say so when the field is there.
    }
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

  /** Give the canvas the pixels that it covers. */
  fit() {
    const ratio = Math.min(globalThis.devicePixelRatio || 1, MAX_PIXEL_RATIO)
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio))
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio))
    if (this.canvas.width === width && this.canvas.height === height) return
    this.canvas.width = width
    this.canvas.height = height
    this.moved()
  }

  /** The view as a camera of the canvas's size. */
  camera() {
    return this.orbit?.camera(this.canvas.width, this.canvas.height)
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
    } else if (now - this.lastMove > REST_MS) {
      this.drawResting()
    }
    if (this.pass < (renderer.canAccumulate ? PASSES : 1)) this.wake()
  }

  /** @param {number} now */
  drawMoving(now) {
    const { width, height } = this.canvas
    const most = this.resolution || 1
    const wanted = this.resolution || Math.sqrt(this.pixels / (width * height))
    const share = Math.min(most, 2 ** (Math.floor(Math.log2(wanted) * SIZES_PER_HALVING) / SIZES_PER_HALVING))
    const isWhole = share === most
    this.pass = 0
    this.row = 0
    this.draw(share, 0, Infinity)
    if (isWhole) this.pass = 1
    const elapsed = now - this.lastFrame
    this.lastFrame = now
    if (now - this.lastMove < REST_MS && elapsed > 0) {
      const before = this.framesPerSecond || 1000 / elapsed
      this.framesPerSecond = before + RATE_WEIGHT * (1000 / elapsed - before)
    }
    this.lastMove = now
  }

  drawResting() {
    const share = this.resolution || 1
    const rows = Math.max(1, Math.floor(this.pixels / (share * this.canvas.width)))
    const height = this.draw(share, this.row, rows)
    this.row += rows
    if (this.row < height) return
    this.row = 0
    this.pass++
  }

  /**
   * @param {number} share of the canvas's sides
   * @param {number} from a row
   * @param {number} rows
   * @returns {number} height of the picture
   */
  draw(share, from, rows) {
    const { renderer, canvas } = this
    const camera = this.camera()
    const width = Math.max(1, Math.round(share * canvas.width))
    const height = Math.max(1, Math.round(share * canvas.height))
    renderer.resizePicture(width, height)
    if (!camera || !renderer.picture) return height
    const to = Math.min(height, from + rows)
    renderer.drawRows(renderer.picture, resized(camera, width, height), { from, to, n: this.pass })
    renderer.show()
    this.frames++
    this.measure((to - from) * width)
    this.events.onFrame()
    return height
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
