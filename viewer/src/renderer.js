/**
 * WebGL2: textures of a field, the picture of a camera, and its refinement while the camera rests.
 *
 * Only the core of WebGL2 is needed. Where half floats cannot be drawn to, the picture is shown without the refinement.
 */

import { blank, BRICK } from './textures.js'
import { marchSource, packLayers, PRESENT, VERTEX, WEIGHTS_WIDTH } from './shaders.js'

/** The browser cannot do it, or refused to. */
export class NoGraphics extends Error {}

/** A shader that is refused, or takes so long that the system stops it: mostly the colour network is too large. */
export const CANNOT = 'The graphics here cannot draw this scene.'

/**
 * A pinhole camera: OpenGL axes, pixel centres at halves, as FORMAT.md's neighbours in Python have it.
 *
 * @typedef {object} Camera
 * @property {readonly number[]} pose 4x4 camera to world, row by row
 * @property {number} fx
 * @property {number} fy
 * @property {number} cx
 * @property {number} cy
 * @property {number} width
 * @property {number} height
 */

/**
 * @typedef {object} Target a picture that is drawn to
 * @property {WebGLTexture} texture
 * @property {WebGLFramebuffer} framebuffer
 * @property {number} width
 * @property {number} height
 */

/**
 * The camera of a smaller or larger picture of the same view.
 *
 * @param {Camera} camera
 * @param {number} width
 * @param {number} height
 * @returns {Camera}
 */
export function resized(camera, width, height) {
  const [x, y] = [width / camera.width, height / camera.height]
  return { ...camera, width, height, fx: camera.fx * x, cx: camera.cx * x, fy: camera.fy * y, cy: camera.cy * y }
}

/**
 * A low-discrepancy point of the unit square for the n-th picture; the first is its centre.
 *
 * @param {number} n from 0
 */
export function jitter(n) {
  // The additive recurrence of the plastic number.
  return n ? [(0.5 + 0.7549 * n) % 1, (0.5 + 0.5698 * n) % 1] : [0.5, 0.5]
}

export class Renderer {
  maxSide = 0
  /** @type {[number, number, number] | undefined} */
  background
  /** @type {import('./textures.js').Drawn | undefined} */
  drawn
  /** @type {Target | undefined} */
  picture
  /** Will be the picture when it is complete. @type {Target | undefined} */
  next
  /** @type {WebGLTexture[]} */
  textures = []
  /** @type {WebGLProgram | undefined} */
  march

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    const options = { alpha: false, antialias: false, depth: false, stencil: false, powerPreference: 'high-performance' }
    const gl = /** @type {WebGL2RenderingContext | null} */ (canvas.getContext('webgl2', options))
    if (!gl) throw new NoGraphics('This browser has no WebGL2.')
    this.canvas = canvas
    this.gl = gl
    this.prepare()
  }

  /** Make what every field needs; again after the context was lost. */
  prepare() {
    const { gl } = this
    this.canAccumulate = Boolean(gl.getExtension('EXT_color_buffer_float') ?? gl.getExtension('EXT_color_buffer_half_float'))
    this.maxSide = /** @type {number} */ (gl.getParameter(gl.MAX_3D_TEXTURE_SIZE)) ?? 256
    this.picture = this.next = this.march = undefined
    this.textures = []
    /** Of `march`. */
    this.source = ''
    this.present = this.compile(PRESENT)
  }

  /** Give the context back; the canvas is of no use any more. */
  destroy() {
    this.drawn = undefined
    this.textures = []
    this.gl.getExtension('WEBGL_lose_context')?.loseContext()
  }

  /** The context came back: everything in it is gone. */
  restore() {
    this.prepare()
    if (this.drawn) this.setField(this.drawn)
  }

  /**
   * @param {string} fragment
   * @returns {WebGLProgram}
   */
  compile(fragment) {
    const { gl } = this
    const program = gl.createProgram()
    const shaders = [VERTEX, fragment].map((source, i) => {
      const shader = /** @type {WebGLShader} */ (gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER))
      if (gl.isContextLost()) return shader
      gl.shaderSource(shader, source)
      gl.compileShader(shader)
      gl.attachShader(program, shader)
      gl.deleteShader(shader)
      return shader
    })
    gl.linkProgram(program)
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      console.warn(gl.getProgramInfoLog(program), ...shaders.map((shader) => gl.getShaderInfoLog(shader)))
      throw new NoGraphics(CANNOT)
    }
    return program
  }

  /**
   * Take a field to the graphics memory.
   *
   * @param {import('./textures.js').Drawn} drawn
   */
  setField(drawn) {
    const { gl } = this
    const units = /** @type {number} */ (gl.getParameter(gl.MAX_TEXTURE_IMAGE_UNITS))
    if (drawn.features.length + 3 > units) throw new NoGraphics(CANNOT)
    for (const texture of this.textures) gl.deleteTexture(texture)
    const source = marchSource(drawn)
    let { march } = this
    if (!march || source !== this.source) {
      if (march) gl.deleteProgram(march)
      march = this.compile(source)
    }
    Object.assign(this, { drawn, march, source })
    const atlas = drawn.bricks.map((n) => n * BRICK)
    this.textures = [
      this.upload(drawn.blocks, drawn.table, gl.RGBA32UI, gl.RGBA_INTEGER, gl.UNSIGNED_INT),
      ...[drawn.density, ...drawn.features].map((bytes) => this.upload(atlas, bytes, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE)),
      this.uploadLayers(packLayers(drawn)),
    ]
    gl.useProgram(march)
    const range = new Float32Array(4 + 8 * drawn.features.length)
    range.set(drawn.densityRange)
    range.set(drawn.featureScale, 4)
    range.set(drawn.featureOffset, 4 + 4 * drawn.features.length)
    gl.uniform4fv(this.uniform('uRange'), range)
    const sizes = { uTexel: atlas.map((n) => 1 / n), uCells: drawn.cells }
    for (const [name, value] of Object.entries(sizes)) gl.uniform3fv(this.uniform(name), value)
    const names = ['uBlocks', 'uDensity', ...drawn.features.map((_, g) => `uFeatures${g}`), 'uWeights']
    for (const [unit, name] of names.entries()) gl.uniform1i(this.uniform(name), unit)
  }

  /** @param {string} name @param {WebGLProgram | undefined} [program] */
  uniform(name, program = this.march) {
    return program ? this.gl.getUniformLocation(program, name) : null
  }

  /**
   * Have the driver compile what will draw a field, while its voxels are still decoded: in software that takes longer than a picture.
   *
   * @param {import('./decode.js').Head & import('./decode.js').Colour} field
   */
  warmUp(field) {
    this.setField(blank(field))
    this.resizePicture(1, 1)
    const camera = { pose: [], fx: 1, fy: 1, cx: 0, cy: 0, width: 1, height: 1 }
    if (this.picture) this.drawPiece(this.picture, camera, { left: 0, right: 1, from: 0, to: 1 })
    this.gl.flush()
  }

  /**
   * @param {readonly number[]} size along X, Y, Z; a texture's width is Z
   * @param {Uint8Array | Uint32Array} data
   * @param {number} internal
   * @param {number} format
   * @param {number} type
   */
  upload([depth, height, width], data, internal, format, type) {
    const { gl } = this
    const texture = this.createTexture(gl.TEXTURE_3D, type === gl.UNSIGNED_INT ? gl.NEAREST : gl.LINEAR)
    gl.texImage3D(gl.TEXTURE_3D, 0, internal, width, height, depth, 0, format, type, data)
    return texture
  }

  /** @param {Float32Array} texels */
  uploadLayers(texels) {
    const { gl } = this
    const texture = this.createTexture(gl.TEXTURE_2D, gl.NEAREST)
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, WEIGHTS_WIDTH, texels.length / 4 / WEIGHTS_WIDTH, 0, gl.RGBA, gl.FLOAT, texels)
    return texture
  }

  /**
   * A texture that is bound.
   *
   * @param {number} target
   * @param {number} filter
   */
  createTexture(target, filter) {
    const { gl } = this
    const texture = gl.createTexture()
    gl.activeTexture(gl.TEXTURE0)
    gl.bindTexture(target, texture)
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(target, name, filter)
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) gl.texParameteri(target, name, gl.CLAMP_TO_EDGE)
    return texture
  }

  /**
   * @param {number} width
   * @param {number} height
   * @param {boolean} [isFine] whether light is to be summed in it
   * @returns {Target}
   */
  createTarget(width, height, isFine = this.canAccumulate) {
    const { gl } = this
    const texture = this.createTexture(gl.TEXTURE_2D, gl.LINEAR)
    const framebuffer = gl.createFramebuffer()
    gl.texStorage2D(gl.TEXTURE_2D, 1, isFine ? gl.RGBA16F : gl.RGBA8, width, height)
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer)
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0)
    return { texture, framebuffer, width, height }
  }

  /** @param {Target | undefined} target */
  deleteTarget(target) {
    if (!target) return
    this.gl.deleteTexture(target.texture)
    this.gl.deleteFramebuffer(target.framebuffer)
  }

  /**
   * Make the picture have this size; what it showed is stretched to it.
   *
   * @param {number} width
   * @param {number} height
   */
  resizePicture(width, height) {
    const { gl, picture } = this
    if (picture?.width === width && picture.height === height) return
    this.picture = this.createTarget(width, height)
    if (picture) {
      gl.bindFramebuffer(gl.READ_FRAMEBUFFER, picture.framebuffer)
      gl.blitFramebuffer(0, 0, picture.width, picture.height, 0, 0, width, height, gl.COLOR_BUFFER_BIT, gl.LINEAR)
    }
    this.deleteTarget(picture)
  }

  /**
   * Make the next picture have this size.
   *
   * @param {number} width
   * @param {number} height
   */
  resizeNext(width, height) {
    const { next } = this
    if (next?.width === width && next.height === height) return
    this.deleteTarget(next)
    this.next = this.createTarget(width, height)
  }

  /** The next picture is complete. */
  takeNext() {
    this.deleteTarget(this.picture)
    this.picture = this.next
    this.next = undefined
  }

  /**
   * Draw a piece of what a camera sees; the n-th picture, from 0, is averaged with those before, but for the first two.
   *
   * @param {Target} target of the camera's size
   * @param {Camera} camera
   * @param {import('./refine.js').Piece} piece
   * @param {number} [n]
   * @param {number} [share] of a ray's light, so much of which may have one colour
   */
  drawPiece(target, camera, { left, right, from, to }, n = 0, share = 0) {
    const { gl, march, textures } = this
    if (!march) return
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.framebuffer)
    gl.viewport(0, 0, target.width, target.height)
    gl.enable(gl.SCISSOR_TEST)
    gl.scissor(left, from, right - left, to - from)
    gl.useProgram(march)
    for (const [unit, texture] of textures.entries()) {
      gl.activeTexture(gl.TEXTURE0 + unit)
      gl.bindTexture(unit === textures.length - 1 ? gl.TEXTURE_2D : gl.TEXTURE_3D, texture)
    }
    for (const [name, value] of Object.entries(raysOf(camera, jitter(n)))) gl.uniform3fv(this.uniform(name), value)
    gl.uniform1f(this.uniform('uShare'), share)
    if (n > 1) {
      gl.enable(gl.BLEND)
      gl.blendColor(0, 0, 0, 1 / n)
      gl.blendFunc(gl.CONSTANT_ALPHA, gl.ONE_MINUS_CONSTANT_ALPHA)
    }
    gl.drawArrays(gl.TRIANGLES, 0, 3)
    gl.disable(gl.BLEND)
    gl.disable(gl.SCISSOR_TEST)
  }

  /**
   * Put light before the background.
   *
   * @param {Target} from
   * @param {WebGLFramebuffer | null} to the canvas if null
   * @param {number} width
   * @param {number} height
   */
  compose(from, to, width, height) {
    const { gl, present, drawn } = this
    if (!present) return
    gl.bindFramebuffer(gl.FRAMEBUFFER, to)
    gl.viewport(0, 0, width, height)
    gl.useProgram(present)
    gl.activeTexture(gl.TEXTURE0)
    gl.bindTexture(gl.TEXTURE_2D, from.texture)
    gl.uniform1i(this.uniform('uPicture', present), 0)
    gl.uniform2f(this.uniform('uSize', present), width, height)
    gl.uniform3fv(this.uniform('uBackground', present), this.background ?? drawn?.background ?? [1, 1, 1])
    gl.drawArrays(gl.TRIANGLES, 0, 3)
  }

  /** Show the picture on the canvas. */
  show() {
    if (this.picture) this.compose(this.picture, null, this.canvas.width, this.canvas.height)
  }

  /**
   * Have the graphics processor's word that all drawing so far is done.
   *
   * @returns {Promise<void>} also when the context is lost
   */
  async finished() {
    const { gl } = this
    const fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0)
    gl.flush()
    while (fence && !gl.isContextLost() && gl.getSyncParameter(fence, gl.SYNC_STATUS) !== gl.SIGNALED) {
      await new Promise((resolve) => setTimeout(resolve))
    }
    gl.deleteSync(fence)
  }

  /**
   * Read what a camera sees, exactly and apart from what the canvas shows.
   *
   * @param {Camera} camera
   * @param {number} [rowsAtOnce] between two of these, the browser can do other things
   * @returns {Promise<Uint8ClampedArray>} [height, width, 4], first row at the top
   */
  async capture(camera, rowsAtOnce = 64) {
    const { gl } = this
    const { width, height } = camera
    const light = this.createTarget(width, height, false)
    for (let from = 0; from < height; from += rowsAtOnce) {
      this.drawPiece(light, camera, { left: 0, right: width, from, to: Math.min(from + rowsAtOnce, height) })
      await this.finished()
    }
    const composed = this.createTarget(width, height, false)
    this.compose(light, composed.framebuffer, width, height)
    const flipped = new Uint8Array(4 * width * height)
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, flipped)
    const pixels = new Uint8ClampedArray(flipped.length)
    for (let row = 0; row < height; row++) {
      pixels.set(flipped.subarray(4 * width * row, 4 * width * (row + 1)), 4 * width * (height - 1 - row))
    }
    this.deleteTarget(light)
    this.deleteTarget(composed)
    return pixels
  }
}

/**
 * The uniforms of a camera: a ray's direction is linear in the position of its pixel.
 *
 * @param {Camera} camera
 * @param {readonly number[]} within the pixel
 */
function raysOf({ pose, fx, fy, cx, cy, height }, [dx, dy]) {
  const turn = (/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ z) =>
    [0, 4, 8].map((row) => pose[row] * x + pose[row + 1] * y + pose[row + 2] * z)
  return {
    uOrigin: [pose[3], pose[7], pose[11]],
    uRayStart: turn((dx - 0.5 - cx) / fx, (dy - 0.5 - height + cy) / fy, -1),
    uRayX: turn(1 / fx, 0, 0),
    uRayY: turn(0, 1 / fy, 0),
  }
}
