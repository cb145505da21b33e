/**
 * The integer range decoder, its contexts, and the order in which the streams of a file are walked.
 *
 * FORMAT.md is the source: section 5 for the coder, section 6 for the walks. Everything is exact integer arithmetic in 32 bits.
 * Safe for untrusted input: a stream that ends early or late throws `Damaged`; the work is bounded by the numbers of the head,
 * which the caller has checked.
 */

/** A coded stream that no encoder writes. */
export class Damaged extends Error {
  constructor(message = 'coded bytes are damaged') {
    super(message)
  }
}

/** Voxels of the partition. */
export const PRUNED = 0
export const CODED = 1
export const KEPT = 2

const HALF = 32768
const FULL = 65535
const SEEN_MAX = 80
const FAST_SHIFT = 5

/**
 * The class of each number from 0: how many limits it has reached.
 *
 * @param {number} n
 * @param {number[]} limits
 */
export const classes = (n, limits) => new Uint8Array(n).map((_, value) => limits.filter((limit) => limit <= value).length)

/** By how much the slow estimate of a context moves after `n` bits. */
const SLOW = classes(SEEN_MAX + 1, [0, 1, 3, 7, 20, 40, 80])

/** One coded stream: the arithmetic decoder and the adaptive contexts of the section. */
export class RangeDecoder {
  /**
   * @param {Uint8Array} bytes the stream, whole
   * @param {number} nContexts contexts of the section, all as new
   */
  constructor(bytes, nContexts) {
    if (bytes.length < 4) throw new Damaged()
    this.bytes = bytes
    this.at = 4
    const code = (bytes[0] << 24) | (bytes[1] << 16) | (bytes[2] << 8) | bytes[3]
    if (code === -1) throw new Damaged()
    /** Range and code: an array, whose numbers of 32 bits stay whole numbers in any engine. */
    this.span = Int32Array.of(-1, code)
    this.fast = new Uint16Array(nContexts).fill(HALF)
    this.slow = new Uint16Array(nContexts).fill(HALF)
    this.seen = new Uint8Array(nContexts)
  }

  /** Read bytes until the range has 24 bits again. */
  refill() {
    const { span, bytes } = this
    while (span[0] >>> 24 === 0) {
      if (this.at >= bytes.length) throw new Damaged()
      span[0] <<= 8
      span[1] = (span[1] << 8) | bytes[this.at++]
    }
  }

  /**
   * Halve the range at `bound`: the lower part is a 1.
   *
   * @param {number} bound
   * @returns {number} 0 or 1
   */
  split(bound) {
    const { span } = this
    const bit = span[1] >>> 0 < bound >>> 0 ? 1 : 0
    if (bit) span[0] = bound
    else {
      span[0] -= bound
      span[1] -= bound
    }
    if (span[0] >>> 24 === 0) this.refill()
    return bit
  }

  /**
   * @param {number} context
   * @returns {number} 0 or 1
   */
  bit(context) {
    const { fast, slow, seen } = this
    const f = fast[context]
    const s = slow[context]
    const n = seen[context]
    const bit = this.split(Math.imul(this.span[0] >>> 15, (f + s) >> 2))
    const slowShift = SLOW[n]
    const fastShift = slowShift < FAST_SHIFT ? slowShift : FAST_SHIFT
    if (bit) {
      fast[context] = f + ((FULL - f) >> fastShift)
      slow[context] = s + ((FULL - s) >> slowShift)
    } else {
      fast[context] = f - (f >> fastShift)
      slow[context] = s - (s >> slowShift)
    }
    if (n < SEEN_MAX) seen[context] = n + 1
    return bit
  }

  /**
   * @param {number} base context of the tree's node 0, which nothing uses
   * @param {number} bits
   */
  tree(base, bits) {
    let node = 1
    for (let i = 0; i < bits; i++) node = 2 * node + this.bit(base + node)
    return node - (1 << bits)
  }

  /** @param {number} bits without a context, each as likely as not */
  direct(bits) {
    let value = 0
    for (let i = 0; i < bits; i++) value = 2 * value + this.split(Math.imul(this.span[0] >>> 15, HALF / 2))
    return value
  }

  /** The last symbol is read: nothing may be left. */
  end() {
    if (this.at !== this.bytes.length || this.span[1]) throw new Damaged()
  }
}

/** 4x4x4 voxels share one bit that says whether any of them is there. */
const BLOCK = 4
/** Of a block that is marked as occupied: a voxel of it is there. */
const HELD = 2
const BLOCK_CONTEXTS = 1 << 13
const VOXEL_CONTEXTS = 1 << 13
const KIND_CONTEXTS = 3 ** 6
/** Of the 13 neighbours that come before a place, those that the place before it has too: two in each of four rows. */
const MOVED = 0b1101101101100

/**
 * Where the 13 neighbours that come before a place stand from it, in an array padded by one on all sides: those that share a face
 * with it, then an edge, then a corner.
 *
 * @param {number} row length of a y row
 * @param {number} plane length of an x plane
 */
export const neighbours = (row, plane) => {
  const before = plane + row
  const after = plane - row
  return [-plane, -row, -1, -before, -plane - 1, 1 - plane, -after, -row - 1, 1 - row, -before - 1, 1 - before, -after - 1, 1 - after]
}

/**
 * The neighbours of `at` that are not 0, as 13 bits, neighbour 0 most significant.
 *
 * @param {number} mask those of the place before; from 0 on, the third is right
 * @param {Uint8Array} padded
 * @param {number} at
 * @param {number} row length of a y row
 * @param {number} plane length of an x plane
 */
function neighbourMask(mask, padded, at, row, plane) {
  const before = at - plane + 1
  return (
    ((mask << 1) & MOVED) |
    (padded[before - row] && 1 << 10) |
    (padded[before] && 1 << 7) |
    (padded[before + row] && 1 << 4) |
    (padded[at - row + 1] && 2) |
    (padded[at - 1] && 1)
  )
}

/**
 * @param {RangeDecoder} coder
 * @param {readonly number[]} shape of the blocks
 * @returns {Uint8Array} 1 where a block holds anything, padded by one on all sides
 */
function decodeBlocks(coder, [bx, by, bz]) {
  const row = bz + 2
  const plane = (by + 2) * row
  const blocks = new Uint8Array((bx + 2) * plane)
  for (let x = 0; x < bx; x++) {
    for (let y = 0; y < by; y++) {
      let at = (x + 1) * plane + (y + 1) * row
      let mask = neighbourMask(0, blocks, at, row, plane)
      for (let z = 0; z < bz; z++) {
        mask = neighbourMask(mask, blocks, ++at, row, plane)
        blocks[at] = coder.bit(mask)
      }
    }
  }
  return blocks
}

/**
 * Decode PART.
 *
 * @param {Uint8Array} bytes
 * @param {readonly number[]} shape X, Y, Z
 * @param {number[]} counts how many voxels each kind has: counted up here
 * @returns {Uint8Array} PRUNED, CODED or KEPT for each voxel
 */
export function decodePartition(bytes, [X, Y, Z], counts) {
  const coder = new RangeDecoder(bytes, BLOCK_CONTEXTS + VOXEL_CONTEXTS + KIND_CONTEXTS)
  const nBlocks = [X, Y, Z].map((n) => Math.ceil(n / BLOCK))
  const blocks = decodeBlocks(coder, nBlocks)
  const blockRow = nBlocks[2] + 2
  const blockPlane = (nBlocks[1] + 2) * blockRow
  const row = Z + 2
  const plane = (Y + 2) * row
  const offsets = neighbours(row, plane)
  // Two planes are all that the neighbours of a voxel lie in: the one before, and its own.
  const planes = new Uint8Array(2 * plane)
  const partition = new Uint8Array(X * Y * Z)
  let out = 0
  for (let x = 0; x < X; x++) {
    planes.copyWithin(0, plane)
    planes.fill(0, plane)
    for (let y = 0; y < Y; y++) {
      let block = ((x >> 2) + 1) * blockPlane + ((y >> 2) + 1) * blockRow + 1
      const end = out + Z
      for (let at = plane + (y + 1) * row + 1; out < end; block++) {
        const next = Math.min(out + BLOCK, end)
        if (!blocks[block]) {
          at += next - out
          out = next
          continue
        }
        let mask = neighbourMask(neighbourMask(0, planes, at - 2, row, plane), planes, at - 1, row, plane)
        for (; out < next; out++, at++) {
          mask = neighbourMask(mask, planes, at, row, plane)
          if (!coder.bit(BLOCK_CONTEXTS + mask)) continue
          const kind = CODED + coder.bit(BLOCK_CONTEXTS + VOXEL_CONTEXTS + kindContext(planes, at, offsets))
          planes[at] = kind
          partition[out] = kind
          counts[kind]++
          blocks[block] = HELD
        }
      }
    }
  }
  coder.end()
  if (blocks.includes(1)) throw new Damaged('a block that is marked as occupied is empty')
  return partition
}

const KIND_NEIGHBOURS = [0, 1, 2, 3, 4, 7]

/**
 * @param {Uint8Array} planes
 * @param {number} at
 * @param {number[]} offsets
 */
function kindContext(planes, at, offsets) {
  let context = 0
  for (const n of KIND_NEIGHBOURS) context = 3 * context + planes[at + offsets[n]]
  return context
}

/** How many of the neighbours share a face with the voxel, and how many a face or an edge. */
const N_FACES = 3
const N_FACES_EDGES = 9

/**
 * Visit the voxels of a kind in raster order, each with the rows of its neighbours of the same kind.
 *
 * @param {Uint8Array} partition
 * @param {readonly number[]} shape
 * @param {(kind: number) => boolean} belongs
 * @param {(row: number, known: Int32Array, faces: number, edges: number, all: number, x: number, y: number, z: number) => void} visit
 *   `known` holds the rows of the known neighbours, faces first, then edges, then corners; `faces`, `edges` and `all` are where
 *   each kind ends
 */
export function walk(partition, [X, Y, Z], belongs, visit) {
  const row = Z + 2
  const plane = (Y + 2) * row
  const closest = neighbours(row, plane)
  const isMember = Uint8Array.from([PRUNED, CODED, KEPT], (kind) => (belongs(kind) ? 1 : 0))
  // Rows plus one, so that 0 says "not known".
  const planes = new Int32Array(2 * plane)
  const known = new Int32Array(13)
  let member = 0
  let voxel = 0
  for (let x = 0; x < X; x++) {
    planes.copyWithin(0, plane)
    planes.fill(0, plane)
    for (let y = 0; y < Y; y++) {
      let at = plane + (y + 1) * row + 1
      for (let z = 0; z < Z; z++, at++, voxel++) {
        if (!isMember[partition[voxel]]) continue
        let n = 0
        let faces = 0
        let edges = 0
        for (let i = 0; i < 13; i++) {
          if (i === N_FACES) faces = n
          else if (i === N_FACES_EDGES) edges = n
          const found = planes[at + closest[i]]
          if (found) known[n++] = found - 1
        }
        visit(member, known, faces, edges, n, x, y, z)
        planes[at] = ++member
      }
    }
  }
}

const NO_SPREAD = 8

/** The spread class of each difference between two levels. */
const SPREAD = classes(256, [2, 4, 7, 12, 18, 26, 40])

/** A running mean of levels keeps 6 bits below the point, and starts in the middle. */
const MEAN_SHIFT = 6
const MEAN_START = 128 << MEAN_SHIFT

/**
 * @param {number} sum
 * @param {number} n
 */
const mean = (sum, n) => ((2 * sum + n) / (2 * n)) | 0

/**
 * Decode DENS.
 *
 * @param {Uint8Array} bytes
 * @param {Uint8Array} partition
 * @param {readonly number[]} shape
 * @param {number} n voxels that are not PRUNED
 * @returns {Uint8Array} their levels, in raster order
 */
export function decodeDensity(bytes, partition, shape, n) {
  const coder = new RangeDecoder(bytes, 4 * (NO_SPREAD + 1) * 256)
  const levels = new Uint8Array(n)
  let running = MEAN_START
  const visit = (
    /** @type {number} */ row,
    /** @type {Int32Array} */ known,
    /** @type {number} */ faces,
    /** @type {number} */ edges,
    /** @type {number} */ all,
  ) => {
    let low = 255
    let high = 0
    let sumFaces = 0
    let sumEdges = 0
    for (let i = 0; i < all; i++) {
      const level = levels[known[i]]
      if (level < low) low = level
      if (level > high) high = level
      if (i < faces) sumFaces += level
      else if (i < edges) sumEdges += level
    }
    const spread = all ? SPREAD[high - low] : NO_SPREAD
    let guess = running >> MEAN_SHIFT
    if (faces) guess = mean(sumFaces, faces)
    else if (edges) guess = mean(sumEdges, edges)
    const level = (coder.tree(256 * (4 * spread + faces), 8) + guess - 128) & 255
    running += level - (running >> MEAN_SHIFT)
    levels[row] = level
  }
  walk(partition, shape, (kind) => kind !== PRUNED, visit)
  coder.end()
  return levels
}

/**
 * Decode CODE.
 *
 * @param {Uint8Array} bytes
 * @param {Uint8Array} partition
 * @param {readonly number[]} shape
 * @param {number} n CODED voxels
 * @param {number} codebookSize K
 * @returns {Int32Array} their codes, in raster order
 */
export function decodeCodes(bytes, partition, shape, n, codebookSize) {
  const bits = codebookSize > 1 ? 32 - Math.clz32(codebookSize - 1) : 0
  const coder = new RangeDecoder(bytes, (1 << bits) + 6 * 6 * 16 * Math.max(bits, 1))
  const codes = new Int32Array(n)
  const members = new Int32Array(13)
  const visit = (
    /** @type {number} */ row,
    /** @type {Int32Array} */ known,
    /** @type {number} */ faces,
    /** @type {number} */ _edges,
    /** @type {number} */ all,
  ) => {
    for (let j = 0; j < all; j++) members[j] = codes[known[j]]
    let nMembers = all
    let nFaces = faces
    let node = 1
    for (let i = bits - 1; i >= 0; i--) {
      let context = node
      if (nMembers) {
        let ones = 0
        let faceOnes = 0
        for (let j = 0; j < nMembers; j++) {
          const one = (members[j] >> i) & 1
          ones += one
          if (j < nFaces) faceOnes += one
        }
        const many = (6 * i + Math.min(ones, 5)) * 6 + Math.min(nMembers - ones, 5)
        context = (1 << bits) + (many * 4 + faceOnes) * 4 + nFaces - faceOnes
      }
      const bit = coder.bit(context)
      node = 2 * node + bit
      let left = 0
      let leftFaces = 0
      for (let j = 0; j < nMembers; j++) {
        if (((members[j] >> i) & 1) !== bit) continue
        if (j < nFaces) leftFaces++
        members[left++] = members[j]
      }
      nMembers = left
      nFaces = leftFaces
    }
    codes[row] = node - (1 << bits)
  }
  walk(partition, shape, (kind) => kind === CODED, visit)
  coder.end()
  if (codes.some((code) => code >= codebookSize)) throw new Damaged('a code is not below the codebook size')
  return codes
}

/**
 * Decode KEPT.
 *
 * @param {Uint8Array} bytes
 * @param {Uint8Array} partition
 * @param {readonly number[]} shape
 * @param {number} n KEPT voxels
 * @param {number} channels C
 * @returns {Uint8Array} [n, C] levels
 */
export function decodeKept(bytes, partition, shape, n, channels) {
  const coder = new RangeDecoder(bytes, (NO_SPREAD + 1) * 256)
  const levels = new Uint8Array(n * channels)
  const running = new Int32Array(channels).fill(MEAN_START)
  const visit = (
    /** @type {number} */ row,
    /** @type {Int32Array} */ known,
    /** @type {number} */ faces,
    /** @type {number} */ edges,
    /** @type {number} */ all,
  ) => {
    const weights = 1 + 4 * faces + 2 * (edges - faces) + (all - edges)
    for (let c = 0; c < channels; c++) {
      let low = 255
      let high = 0
      let sum = running[c] >> MEAN_SHIFT
      for (let i = 0; i < all; i++) {
        const level = levels[known[i] * channels + c]
        if (level < low) low = level
        if (level > high) high = level
        sum += i < faces ? 4 * level : i < edges ? 2 * level : level
      }
      const spread = all ? SPREAD[high - low] : NO_SPREAD
      const level = (coder.tree(256 * spread, 8) + mean(sum, weights) - 128) & 255
      running[c] += level - (running[c] >> MEAN_SHIFT)
      levels[row * channels + c] = level
    }
  }
  walk(partition, shape, (kind) => kind === KEPT, visit)
  coder.end()
  return levels
}

/**
 * Decode the items of tables that share one stream (COLR, BOOK).
 *
 * @param {Uint8Array} bytes
 * @param {readonly { items: number, wide: boolean, base: (item: number) => number }[]} tables
 * @param {number} nContexts
 * @returns {Uint16Array[]} the items of each table: u8 or u16 levels, or the bits of float16
 */
export function decodeTables(bytes, tables, nContexts) {
  const coder = new RangeDecoder(bytes, nContexts)
  const decoded = tables.map(({ items, wide, base }) => {
    const values = new Uint16Array(items)
    for (let i = 0; i < items; i++) {
      const high = coder.tree(base(i), 8)
      values[i] = wide ? 256 * high + coder.direct(8) : high
    }
    return values
  })
  coder.end()
  return decoded
}
