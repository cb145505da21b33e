/**
 * From decoded arrays to textures that the graphics hardware can filter.
 *
 * The lattice is cut into blocks of 4x4x4 cells. Blocks in which a sample can exist get a brick of 5x5x5 texels in an atlas; a
 * block table says of each block which brick it has, which of its 64 cells are occupied, or how far the nearest occupied block is.
 *
 * A texel of density holds (high byte of a level, 1, low byte) of a voxel and zeros of a PRUNED one. All of them are linear, so what
 * the hardware interpolates is exact: density = scale * (high + low / 256) + offset * share + empty_density * (1 - share). Levels of
 * a codebook's file have no low byte; densities of a pyramid are put on 65536 levels. Bytes for both, so that
 * one shader and one format of texture serve them.
 */

import { ACTIVATION_RELU, dequantize } from './decode.js'
import { CODED, neighbours } from './entropy.js'
import { homeOf } from './front.js'
import { multiplyOut, productsOf } from './planes.js'
import { addUp, eachNode } from './pyramid.js'

/** Cells along the edge of a block: 64 bits name them all. */
export const BLOCK_CELLS = 4
export const BLOCK_BITS = 2
/** Texels along the edge of a brick: the voxels around the cells of a block. */
export const BRICK = BLOCK_CELLS + 1
/** Distances in the block table end here; a longer way takes more than one skip. */
const MAX_DISTANCE = 64
/** Share of the occupied blocks at each end of an axis that the first view does not care for. */
const ASTRAY = 0.01
/** Channels to one texture of features. */
const GROUP = 4
/** Raw densities beyond say no more. */
const MAX_DENSITY = 65504
/** Products of planes and lines that are summed up for a field: half a minute. */
const MAX_PRODUCTS = 2 ** 35

const NO_TEXTURE = 'the field needs a larger texture than this browser has'

/** @typedef {import('./decode.js').Head & Textures} Drawn what the renderer needs, all of it transferable */

/**
 * @typedef {object} Textures
 * @property {[number, number, number]} blocks their number along X, Y, Z
 * @property {number[]} cells of the lattice along X, Y, Z between `lo` and `hi`
 * @property {Uint32Array} table four words to a block: 64 bits of cells, brick (8 bits each of x, y, z), distance in blocks
 * @property {[number, number, number]} bricks of the atlas along X, Y, Z
 * @property {Uint8Array} density four numbers a texel: high byte, share, low byte, nothing
 * @property {Uint8Array[]} features four channels each
 * @property {Float32Array} featureScale worth of a channel's full texel
 * @property {Float32Array} featureOffset
 * @property {[number, number]} densityRange scale (of a full high byte) and offset
 * @property {number} shading
 * @property {number} featureFrequencies
 * @property {BakedLayer[]} layers
 * @property {{ lo: number[], hi: number[] }} extent of what can be seen, places
 * @property {boolean} [isCoarse] whether another field comes in its place, of more voxels
 * @property {import('./front.js').Home} [home] where a camera begins before what was seen from one side
 */

/**
 * @typedef {object} BakedLayer
 * @property {number} out
 * @property {number} in
 * @property {Float32Array} weight [out, in]
 * @property {Float32Array} bias
 */

/** The field is whole, but too large for a browser. */
export class TooLarge extends Error {}

/**
 * The raw density that gives `alpha` over one step: the inverse of the activation of FORMAT.md section 4.
 *
 * @param {number} alpha
 * @param {{ densityBias: number, interval: number, activation: number }} field
 */
export function densityOfAlpha(alpha, { densityBias: bias, interval, activation }) {
  if (alpha <= 0) return -Infinity
  if (alpha >= 1) return Infinity
  const depth = -Math.log1p(-alpha) / interval
  if (activation === ACTIVATION_RELU) return depth - bias
  return depth + Math.log(-Math.expm1(-depth)) - bias
}

/** Which cells and blocks a lattice has, and which of them are occupied. */
class BlockTable {
  /** @param {readonly number[]} shape voxels */
  constructor(shape) {
    this.cells = shape.map((side) => side - 1)
    this.size = /** @type {[number, number, number]} */ (this.cells.map((n) => Math.ceil(n / BLOCK_CELLS)))
    this.n = this.size[0] * this.size[1] * this.size[2]
    this.words = new Uint32Array(4 * this.n)
  }

  /**
   * Mark the cells around a voxel as occupied.
   *
   * @param {number} x
   * @param {number} y
   * @param {number} z
   */
  occupyAround(x, y, z) {
    const [, ny, nz] = this.size
    for (let i = Math.max(x - 1, 0); i <= x && i < this.cells[0]; i++) {
      for (let j = Math.max(y - 1, 0); j <= y && j < this.cells[1]; j++) {
        for (let k = Math.max(z - 1, 0); k <= z && k < this.cells[2]; k++) {
          const block = ((i >> 2) * ny + (j >> 2)) * nz + (k >> 2)
          const bit = ((i & 3) << 4) | ((j & 3) << 2) | (k & 3)
          this.words[4 * block + (bit >> 5)] |= 1 << (bit & 31)
        }
      }
    }
  }

  /** Write each empty block's Chebyshev distance to the nearest occupied block. Two scans are exact for this metric. */
  measureDistances() {
    const [nx, ny, nz] = this.size
    const [row, plane] = [nz + 2, (ny + 2) * (nz + 2)]
    const distance = new Uint8Array((nx + 2) * plane).fill(MAX_DISTANCE)
    const before = neighbours(row, plane)
    /** @type {(step: number) => void} */
    const scan = (step) => {
      const first = step > 0 ? 0 : this.n - 1
      for (let n = 0, block = first; n < this.n; n++, block += step) {
        const z = block % nz
        const y = ((block - z) / nz) % ny
        const here = (((block / (ny * nz)) | 0) + 1) * plane + (y + 1) * row + z + 1
        if (this.words[4 * block] | this.words[4 * block + 1]) distance[here] = 0
        let least = distance[here]
        for (const offset of before) least = Math.min(least, distance[here + step * offset] + 1)
        distance[here] = least
        this.words[4 * block + 3] = least
      }
    }
    scan(1)
    scan(-1)
  }

  /**
   * The cells between which nearly all occupied blocks lie: what a camera should look at. A few that are astray do not count.
   */
  bounds() {
    const along = this.size.map((n) => new Uint32Array(n))
    let occupied = 0
    for (let block = 0; block < this.n; block++) {
      if (this.words[4 * block + 3]) continue
      const z = block % this.size[2]
      const y = ((block - z) / this.size[2]) % this.size[1]
      along[0][Math.floor(block / (this.size[1] * this.size[2]))]++
      along[1][y]++
      along[2][z]++
      occupied++
    }
    const first = (/** @type {Uint32Array} */ counts) => {
      let [at, sum] = [0, counts[0]]
      while (at + 1 < counts.length && sum <= ASTRAY * occupied) sum += counts[++at]
      return at
    }
    if (!occupied) return { low: [0, 0, 0], high: this.cells }
    const low = along.map((counts) => BLOCK_CELLS * first(counts))
    const high = along.map((counts, axis) => {
      return Math.min(BLOCK_CELLS * (counts.length - first(counts.slice().reverse())), this.cells[axis])
    })
    return { low, high }
  }

  /**
   * Give each occupied block a brick. Wants the distances.
   *
   * @param {number} maxSide of a texture
   * @returns {[number, number, number]} bricks of the atlas along X, Y, Z
   */
  placeBricks(maxSide) {
    let occupied = 0
    for (let block = 0; block < this.n; block++) if (!this.words[4 * block + 3]) occupied++
    const most = Math.min(Math.floor(maxSide / BRICK), 255)
    const side = Math.min(Math.ceil(Math.cbrt(Math.max(occupied, 1))), most)
    const deep = Math.ceil(Math.max(occupied, 1) / (side * side))
    if (deep > most) throw new TooLarge(NO_TEXTURE)
    let brick = 0
    for (let block = 0; block < this.n; block++) {
      if (this.words[4 * block + 3]) continue
      const [z, y, x] = [brick % side, Math.floor(brick / side) % side, Math.floor(brick / (side * side))]
      this.words[4 * block + 2] = x | (y << 8) | (z << 16)
      brick++
    }
    return [deep, side, side]
  }
}

/**
 * Turn each column of a table of features into bytes.
 *
 * @param {Float32Array[]} tables of `channels` columns
 * @param {number} channels
 */
function quantizeFeatures(tables, channels) {
  const low = new Float32Array(channels)
  const high = new Float32Array(channels)
  for (const values of tables) {
    for (let i = 0, c = 0; i < values.length; i++, c = c + 1 === channels ? 0 : c + 1) {
      low[c] = Math.min(low[c], values[i]) // NaN stays, and is refused by the limits
      high[c] = Math.max(high[c], values[i])
    }
  }
  const scale = low.map((value, c) => high[c] - value || 1)
  const bytesOf = scale.map((range) => 255 / range)
  const groups = Math.ceil(channels / GROUP)
  const bytes = tables.map((values) => {
    const rows = values.length / channels
    const packed = new Uint8Array(rows * groups * GROUP)
    for (let row = 0, i = 0; row < rows; row++) {
      for (let c = 0; c < channels; c++) packed[row * groups * GROUP + c] = (values[i++] - low[c]) * bytesOf[c] + 0.5
    }
    return new Uint32Array(packed.buffer)
  })
  const zero = new Uint8Array(groups * GROUP)
  for (let c = 0; c < channels; c++) zero[c] = 0.5 - low[c] * bytesOf[c]
  return { scale, offset: low, groups, bytes, zero: new Uint32Array(zero.buffer) }
}

/**
 * The voxels of a field that are not PRUNED, in raster order.
 *
 * @typedef {object} Voxels
 * @property {Float32Array} densities what they are worth
 * @property {Uint16Array} levels what texels hold for them
 * @property {[number, number]} range scale and offset of what the hardware reads
 * @property {Float32Array[]} tables of features: of CODED voxels, of KEPT ones
 * @property {ArrayLike<number> | undefined} codes rows of CODED voxels; without it, each has its own
 */

/**
 * What a pyramid is worth at the voxels.
 *
 * @param {import('./decode.js').Common & import('./pyramid.js').Pyramid} field
 */
function valuesOf({ steps, basis, levels, channels, nCoded }) {
  const values = addUp(steps, levels)
  const density = new Float32Array(nCoded)
  const features = new Float32Array(nCoded * channels)
  for (let row = 0, at = 0, to = 0; row < nCoded; row++, to += channels) {
    density[row] = values[at++]
    for (let z = 0; z < steps.length - 1; z++) {
      const latent = values[at++]
      if (basis) for (let c = 0; c < channels; c++) features[to + c] += latent * basis[z * channels + c]
      else features[to + z] = latent
    }
  }
  return { density, features }
}

/**
 * @param {import('./decode.js').CompressedField} field
 * @returns {Voxels}
 */
function voxelsOf(field) {
  if ('codebook' in field) {
    const { density, codebook, kept, codes } = field
    return {
      densities: dequantize(density),
      levels: Uint16Array.from(density.items, (level) => level << 8),
      range: [255 * density.scale[0], density.offset[0]],
      tables: [dequantize(codebook), dequantize(kept)],
      codes,
    }
  }
  if ('mix' in field && productsOf(field) > MAX_PRODUCTS) {
    throw new TooLarge('the field takes too long to multiply out')
  }
  const { density: densities, features } = 'mix' in field ? multiplyOut(field, dequantize(field.mix)) : valuesOf(field)
  let [low, high] = [MAX_DENSITY, -MAX_DENSITY]
  for (let row = 0; row < densities.length; row++) {
    const density = (densities[row] = Math.max(-MAX_DENSITY, Math.min(densities[row], MAX_DENSITY)))
    low = Math.min(low, density)
    high = Math.max(high, density)
  }
  const step = (high - low) / 65535 || 1
  const levels = new Uint16Array(densities.map((density) => Math.round((density - low) / step)))
  return { densities, levels, range: [255 * 256 * step, low], tables: [features, new Float32Array(0)], codes: undefined }
}

/**
 * Write the voxels into the bricks of the blocks that they belong to.
 *
 * @param {import('./decode.js').CompressedField} field
 * @param {Voxels} voxels
 * @param {BlockTable} blocks
 * @param {readonly number[]} bricks
 * @param {ReturnType<typeof quantizeFeatures>} features
 */
function fillBricks({ shape, partition }, { levels, codes }, blocks, bricks, features) {
  const [, by, bz] = blocks.size
  const [texelRow, texelPlane] = [bricks[2] * BRICK, bricks[1] * bricks[2] * BRICK * BRICK]
  const texels = bricks[0] * BRICK * texelPlane
  const { groups, bytes: [codebook, kept], zero } = features
  const densities = new Uint32Array(texels)
  const words = Array.from({ length: groups }, (_, g) => new Uint32Array(texels).fill(zero[g]))
  let nCoded = 0
  let nKept = 0
  eachNode({ shape, there: partition }, (value, x, y, z, kind) => {
    const level = levels[value]
    const isCoded = kind === CODED
    const source = isCoded ? codebook : kept
    const row = (!isCoded ? nKept++ : codes ? codes[nCoded++] : nCoded++) * groups
    for (let i = Math.max((x - 1) >> 2, 0); i <= x >> 2 && i < blocks.size[0]; i++) {
      for (let j = Math.max((y - 1) >> 2, 0); j <= y >> 2 && j < by; j++) {
        for (let k = Math.max((z - 1) >> 2, 0); k <= z >> 2 && k < bz; k++) {
          const block = 4 * ((i * by + j) * bz + k)
          if (blocks.words[block + 3]) continue
          const brick = blocks.words[block + 2]
          const texel =
            ((brick & 255) * BRICK + x - 4 * i) * texelPlane +
            (((brick >> 8) & 255) * BRICK + y - 4 * j) * texelRow +
            (brick >> 16) * BRICK + z - 4 * k
          densities[texel] = (level >> 8) | 0xff00 | ((level & 255) << 16)
          for (let g = 0; g < groups; g++) words[g][texel] = source[row + g]
        }
      }
    }
  })
  return { density: new Uint8Array(densities.buffer), features: words.map((group) => new Uint8Array(group.buffer)) }
}

/**
 * Make textures of a field.
 *
 * @param {import('./decode.js').CompressedField} field
 * @param {number} maxSide the longest edge of a 3-D texture
 * @returns {Drawn}
 * @throws {TooLarge} when the field does not fit such textures
 */
export function makeTextures(field, maxSide) {
  const { shape, partition, channels } = field
  const blocks = new BlockTable(shape)
  if (Math.max(...blocks.size) > maxSide) throw new TooLarge(NO_TEXTURE)
  const voxels = voxelsOf(field)
  const floor = densityOfAlpha(field.alphaThreshold, field)
  // Where even an empty voxel would show, any voxel that is not PRUNED makes its cells visible.
  const least = field.emptyDensity > floor ? -Infinity : floor
  eachNode({ shape, there: partition }, (value, x, y, z) => {
    if (voxels.densities[value] > least) blocks.occupyAround(x, y, z)
  })
  blocks.measureDistances()
  const { low, high } = blocks.bounds()
  const bricks = blocks.placeBricks(maxSide)
  const features = quantizeFeatures(voxels.tables, channels)
  const filled = fillBricks(field, voxels, blocks, bricks, features)
  const { lo, hi, shading, space, isUnbounded } = field
  const { cells = blocks.cells } = /** @type {Partial<import('./pyramid.js').Coarse>} */ (field)
  const places = (/** @type {number[]} */ at) => at.map((n, axis) => lo[axis] + Math.min(1, n / cells[axis]) * (hi[axis] - lo[axis]))
  return {
    extent: { lo: places(low), hi: places(high) },
    home: space && homeOf(space, places(low), places(high), isUnbounded),
    ...{ ...field.head, shape, cells, shading, isCoarse: shape.join() !== field.head.shape.join() },
    ...{ blocks: blocks.size, table: blocks.words, bricks, ...filled },
    featureScale: features.scale,
    featureOffset: features.offset,
    densityRange: voxels.range,
    featureFrequencies: field.featureFrequencies,
    layers: field.layers.map(({ out, in: inputs, weight, bias }) => {
      return { out, in: inputs, weight: dequantize(weight), bias: dequantize(bias) }
    }),
  }
}

/**
 * Textures of which nothing can be seen.
 *
 * @param {import('./decode.js').Head & import('./decode.js').Colour} field whose equation they have
 * @returns {Drawn}
 */
export function blank(field) {
  const bytes = new Uint8Array(4 * BRICK ** 3)
  const none = new Float32Array(0)
  return {
    ...field,
    ...{ blocks: [1, 1, 1], table: new Uint32Array(4), bricks: [1, 1, 1], density: bytes, densityRange: [0, 0] },
    features: Array(Math.ceil(field.channels / GROUP)).fill(bytes),
    ...{ featureScale: none, featureOffset: none, extent: field, cells: field.shape },
    layers: field.layers.map((layer) => ({ ...layer, weight: none, bias: none })),
  }
}
