/**
 * From the bytes of a .vqrf file to its arrays, or to one error that says where the file is damaged.
 *
 * Written from FORMAT.md and `conformance/`. Safe for untrusted input: every number is checked against the limits of the format
 * before anything is allocated for it.
 */

import { Damaged, decodeCodes, decodeDensity, decodeKept, decodePartition, decodeTables } from './entropy.js'
import { parseMetadata } from './metadata.js'

/** What is wrong with a file, and where. */
export class FormatError extends Error {
  /**
   * @param {string} section name of a section, `header`, or `end`
   * @param {number} offset in bytes
   * @param {string} reason
   */
  constructor(section, offset, reason) {
    super(`${section} at byte ${offset}: ${reason}`)
    this.name = 'FormatError'
    this.section = section
    this.offset = offset
    this.reason = reason
  }
}

/**
 * @typedef {object} Section
 * @property {string} name
 * @property {number} row where its row of the table begins
 * @property {number} offset where its bytes begin
 * @property {number} bytes stored length
 * @property {number} raw raw length
 * @property {number} method
 * @property {number} crc
 */

/**
 * A table as it is stored: levels with their quantiser, or the bits of float16.
 *
 * @typedef {object} Table
 * @property {number} type 0: float16, 1: u8 levels, 2: u16 levels
 * @property {number} columns
 * @property {Uint8Array | Uint16Array} items
 * @property {Float32Array} scale one, or one for each column; none for float16
 * @property {Float32Array} offset
 */

/**
 * @typedef {object} Head
 * @property {[number, number, number]} lo
 * @property {[number, number, number]} hi
 * @property {[number, number, number]} shape
 * @property {number} channels
 * @property {number} codebookSize
 * @property {number} nCoded
 * @property {number} nKept
 * @property {number} emptyDensity
 * @property {number} densityBias
 * @property {number} interval
 * @property {number} stepWorld
 * @property {number} near
 * @property {number} alphaThreshold
 * @property {[number, number, number]} background
 * @property {number} activation of the density, 0: softplus; 1: ReLU
 */

/**
 * @typedef {object} Layer
 * @property {number} out
 * @property {number} in
 * @property {Table} weight
 * @property {Table} bias
 */

/**
 * @typedef {object} Colour
 * @property {number} shading 0: the layers on the features; 1: spherical harmonics; 2: the same through a ReLU; 3: the layers on
 *   features and frequencies of them
 * @property {number} featureFrequencies how many; 0 unless shading is 3
 * @property {Layer[]} layers
 */

/**
 * @typedef {Head & Colour & {
 *   metadata: Record<string, unknown> | undefined,
 *   codebook: Table,
 *   partition: Uint8Array,
 *   density: Table,
 *   codes: Int32Array,
 *   kept: Table,
 *   sections: { name: string, bytes: number }[],
 * }} CompressedField
 */

const SIGNATURE = [0x89, 0x56, 0x51, 0x52, 0x0d, 0x0a, 0x1a, 0x0a]
const VERSION = [0, 3]
const HEADER_BYTES = 32
const ROW_BYTES = 32
const HEAD_BYTES = 116
const MAX_SECTIONS = 64
const MAX_SIDE = 4096
const MAX_VOXELS = 2 ** 31
const MAX_CHANNELS = 64
const MAX_CODEBOOK = 65536
const MAX_LAYERS = 16
const MAX_METADATA = 1048576
const MAX_FREQUENCIES = 10
/** Raw bytes to one stored byte; no stream is denser. */
const MAX_RATIO = 2 ** 19
/** What a file may decode to unless the caller says otherwise. */
export const DEFAULT_BUDGET = 2 ** 30
const FREE_WORKING_BYTES = 2 ** 20

const STORED = 0
const CODED = 1

/** Known sections in their order. */
const KNOWN = [
  { name: 'HEAD', critical: 1, method: STORED },
  { name: 'META', critical: 0, method: STORED },
  { name: 'COLR', critical: 1, method: CODED },
  { name: 'BOOK', critical: 1, method: CODED },
  { name: 'PART', critical: 1, method: CODED },
  { name: 'DENS', critical: 1, method: CODED },
  { name: 'CODE', critical: 1, method: CODED },
  { name: 'KEPT', critical: 1, method: CODED },
]

const FLOAT16 = 0
const U8 = 1
const U16 = 2
const ONE_SCALE = 1
const SCALE_BY_COLUMN = 2

/** How a file is shaded. */
export const SHADING_LAYERS = 0
export const SHADING_HARMONICS = 1
export const SHADING_HARMONICS_RELU = 2
const SHADING_FREQUENCIES = 3

/** @param {number} shading */
export const isHarmonic = (shading) => shading === SHADING_HARMONICS || shading === SHADING_HARMONICS_RELU

/** What is done to density. */
export const ACTIVATION_SOFTPLUS = 0
export const ACTIVATION_RELU = 1

const CRC_TABLE = new Uint32Array(256).map((_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1
  return n
})

/**
 * The CRC-32 of zlib and PNG.
 *
 * @param {...Uint8Array} parts
 */
export function crc32(...parts) {
  let crc = -1
  for (const part of parts) {
    for (let i = 0; i < part.length; i++) crc = CRC_TABLE[(crc ^ part[i]) & 255] ^ (crc >>> 8)
  }
  return ~crc >>> 0
}

/**
 * @param {Uint8Array} bytes
 * @param {DataView} view
 * @returns {number} sections in the table
 */
function checkHeader(bytes, view) {
  const n = bytes.length
  const isStart = SIGNATURE.every((byte, i) => i >= n || bytes[i] === byte)
  if (!isStart) throw new FormatError('header', 0, 'not a .vqrf file')
  if (n < HEADER_BYTES) throw new FormatError('header', n, `truncated: the header has ${HEADER_BYTES} bytes, the file ${n}`)
  const [major, minor] = [view.getUint16(8, true), view.getUint16(10, true)]
  if (major !== VERSION[0] || minor !== VERSION[1]) {
    const known = VERSION.join('.')
    throw new FormatError('header', 8, `version ${major}.${minor} is not supported: this reader knows ${known}`)
  }
  const count = view.getUint32(12, true)
  if (count < 1 || count > MAX_SECTIONS) {
    throw new FormatError('header', 12, `section count ${count} is outside 1..${MAX_SECTIONS}`)
  }
  const end = HEADER_BYTES + ROW_BYTES * count
  if (n < end) throw new FormatError('header', n, `truncated: header and section table have ${end} bytes, the file ${n}`)
  const crc = crc32(bytes.subarray(0, 28), bytes.subarray(HEADER_BYTES, end))
  if (crc !== view.getUint32(28, true)) throw new FormatError('header', 28, 'checksum mismatch')
  if (view.getUint32(24, true)) throw new FormatError('header', 24, 'reserved bytes are not zero')
  return count
}

/**
 * @param {Uint8Array} bytes
 * @param {DataView} view
 * @param {number} count
 * @returns {(Section & { stored: bigint, known: boolean })[]}
 */
function readTable(bytes, view, count) {
  const rows = []
  let next = 0
  for (let i = 0; i < count; i++) {
    const row = HEADER_BYTES + ROW_BYTES * i
    const name = String.fromCharCode(...bytes.subarray(row, row + 4))
    if (!/^[A-Z0-9]{4}$/.test(name)) {
      throw new FormatError('header', row, 'section name is not four capital letters or digits')
    }
    const flags = view.getUint16(row + 4, true)
    const method = view.getUint16(row + 6, true)
    const stored = view.getBigUint64(row + 8, true)
    const raw = view.getBigUint64(row + 16, true)
    const at = KNOWN.findIndex((section) => section.name === name)
    if (at < 0) {
      if (flags & 1) throw new FormatError(name, row, 'unknown critical section')
    } else {
      if (at < next) throw new FormatError(name, row, 'appears twice or out of order')
      next = at + 1
      if (flags !== KNOWN[at].critical) throw new FormatError(name, row + 4, `flags are ${flags}, not the section's`)
      if (method !== KNOWN[at].method) throw new FormatError(name, row + 6, `coding method ${method} is not supported`)
      if (method === STORED && raw !== stored) {
        throw new FormatError(name, row + 16, `raw length ${raw} is not the stored length`)
      }
      if (view.getUint32(row + 28, true)) throw new FormatError(name, row + 28, 'reserved bytes are not zero')
    }
    const crc = view.getUint32(row + 24, true)
    rows.push({ name, row, offset: 0, bytes: 0, raw: Number(raw), method, crc, stored, known: at >= 0 })
  }
  return rows
}

/**
 * Read the table of sections and check that it says what the file is.
 *
 * @param {Uint8Array} bytes
 * @param {number} budget
 * @returns {Map<string, Section>} the known sections
 */
function readSections(bytes, budget) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const count = checkHeader(bytes, view)
  const rows = readTable(bytes, view, count)
  const length = view.getBigUint64(16, true)
  const start = HEADER_BYTES + ROW_BYTES * count
  const sum = rows.reduce((total, { stored }) => total + stored, BigInt(start))
  if (sum !== length) throw new FormatError('header', 16, `file length ${length} is not the sum of its parts`)
  let end = BigInt(start)
  for (const section of rows) {
    section.offset = Number(end)
    end += section.stored
    if (end > bytes.length) {
      throw new FormatError(section.name, bytes.length, `truncated: ends at byte ${end}, the file has ${bytes.length}`)
    }
    section.bytes = Number(section.stored)
  }
  const after = bytes.length - Number(end)
  if (after > 0) throw new FormatError('end', Number(end), `${after} trailing bytes`)
  for (const { name, offset, bytes: stored, crc } of rows) {
    if (crc32(bytes.subarray(offset, offset + stored)) !== crc) throw new FormatError(name, offset, 'checksum mismatch')
  }
  return checkLengths(rows, budget)
}

/**
 * @param {(Section & { known: boolean })[]} rows
 * @param {number} budget
 */
function checkLengths(rows, budget) {
  const sections = new Map()
  let total = 0
  for (const section of rows) {
    if (!section.known) continue
    const { name, raw, bytes, row } = section
    if (section.method === CODED && name !== 'CODE' && Math.floor(raw / MAX_RATIO) > bytes) {
      throw new FormatError(name, row + 16, `raw length ${raw} is too great for ${bytes} stored bytes`)
    }
    total += raw
    if (total > budget) {
      throw new FormatError(name, row + 16, `decoded sections take more than the limit of ${budget} bytes`)
    }
    sections.set(name, section)
  }
  for (const { name, critical } of KNOWN) {
    if (critical && !sections.has(name)) throw new FormatError(name, HEADER_BYTES, 'section is missing')
  }
  return sections
}

/**
 * @param {Uint8Array} bytes of HEAD
 * @param {(reason: string) => FormatError} damage
 * @returns {Head}
 */
function readHead(bytes, damage) {
  if (bytes.length !== HEAD_BYTES) throw damage(`has ${bytes.length} bytes, expected ${HEAD_BYTES}`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  /** @returns {[number, number, number]} */
  const three = (/** @type {(axis: number) => number} */ read) => [read(0), read(1), read(2)]
  const shape = three((axis) => view.getUint32(48 + 4 * axis, true))
  const [channels, codebookSize, nCoded, nKept] = [60, 64, 68, 72].map((at) => view.getUint32(at, true))
  const [emptyDensity, densityBias, interval, stepWorld, near, alphaThreshold] = [76, 80, 84, 88, 92, 96].map((at) =>
    view.getFloat32(at, true),
  )
  const background = three((axis) => view.getFloat32(100 + 4 * axis, true))
  const activation = view.getUint32(112, true)
  const lo = three((axis) => view.getFloat64(8 * axis, true))
  const hi = three((axis) => view.getFloat64(24 + 8 * axis, true))
  for (const side of shape) if (side < 2 || side > MAX_SIDE) throw damage(`side ${side} is outside 2..${MAX_SIDE}`)
  const nVoxels = shape[0] * shape[1] * shape[2]
  if (nVoxels > MAX_VOXELS) throw damage(`${nVoxels} voxels, the limit is ${MAX_VOXELS}`)
  if (channels < 1 || channels > MAX_CHANNELS) throw damage(`channel count ${channels} is outside 1..${MAX_CHANNELS}`)
  if (codebookSize < 1 || codebookSize > MAX_CODEBOOK) {
    throw damage(`codebook size ${codebookSize} is outside 1..${MAX_CODEBOOK}`)
  }
  if (nCoded + nKept > nVoxels) throw damage('more voxels hold values than there are')
  const constants = [emptyDensity, densityBias, interval, stepWorld, near, alphaThreshold, ...background]
  if (!constants.every(Number.isFinite)) throw damage('a constant is not finite')
  if (!(interval > 0 && stepWorld > 0)) throw damage('interval or step_world is not positive')
  if (![...lo, ...hi].every(Number.isFinite) || lo.some((value, axis) => value >= hi[axis])) {
    throw damage('bounds are not finite with lo < hi')
  }
  if (activation > ACTIVATION_RELU) throw damage(`activation ${activation} is not supported`)
  return {
    ...{ lo, hi, shape, channels, codebookSize, nCoded, nKept },
    ...{ emptyDensity, densityBias, interval, stepWorld, near, alphaThreshold, background, activation },
  }
}

/** Reads the small things that stand before a stream. */
class RecordReader {
  /**
   * @param {Uint8Array} bytes of a section
   * @param {(reason: string) => FormatError} damage
   */
  constructor(bytes, damage) {
    this.bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.damage = damage
    this.at = 0
  }

  /** @param {number} n bytes; returns where they begin */
  take(n) {
    const at = this.at
    if (n > this.bytes.length - at) throw this.damage('ends inside its own header')
    this.at += n
    return at
  }

  u16() {
    return this.view.getUint16(this.take(2), true)
  }

  u32() {
    return this.view.getUint32(this.take(4), true)
  }

  /**
   * @param {number} n
   * @returns {Float32Array}
   */
  floats(n) {
    const at = this.take(4 * n)
    const values = new Float32Array(n)
    for (let i = 0; i < n; i++) values[i] = this.view.getFloat32(at + 4 * i, true)
    if (!values.every(Number.isFinite)) throw this.damage('scale or offset is not finite')
    return values
  }

  /**
   * A quantiser record; the items come later.
   *
   * @param {number} columns
   * @returns {Table}
   */
  record(columns) {
    const at = this.take(2)
    const [type, mode] = this.bytes.subarray(at, at + 2)
    if (type > U16) throw this.damage(`table type ${type} is not supported`)
    const isFit = type === FLOAT16 ? mode === 0 : mode === ONE_SCALE || (mode === SCALE_BY_COLUMN && columns > 1)
    if (!isFit) throw this.damage(`quantiser mode ${mode} does not fit the table`)
    if (this.u16()) throw this.damage('reserved bytes are not zero')
    const n = type === FLOAT16 ? 0 : mode === ONE_SCALE ? 1 : columns
    return { type, columns, items: new Uint8Array(0), scale: this.floats(n), offset: this.floats(n) }
  }

  rest() {
    return this.bytes.subarray(this.at)
  }
}

/** @param {Table} table */
const bytesOfItem = ({ type }) => (type === U8 ? 1 : 2)

/**
 * @param {Table} table
 * @param {Uint16Array} items as they were decoded
 * @param {(reason: string) => FormatError} damage
 */
function fillTable(table, items, damage) {
  table.items = table.type === U8 ? Uint8Array.from(items) : items
  if (table.type === FLOAT16 && items.some((bits) => (bits & 0x7c00) === 0x7c00)) throw damage('a value is not finite')
}

/**
 * @param {RecordReader} reader
 * @param {number} layers
 * @param {(reason: string) => FormatError} damage
 */
function readFrequencies(reader, layers, damage) {
  const frequencies = reader.u16()
  if (reader.u16() || !frequencies) throw damage('feature frequencies without one, or reserved bytes that are not zero')
  if (frequencies > MAX_FREQUENCIES) throw damage(`${frequencies} feature frequencies are outside 0..${MAX_FREQUENCIES}`)
  if (!layers) throw damage('feature frequencies without layers')
  return frequencies
}

/**
 * @param {Uint8Array} bytes of COLR
 * @param {number} raw
 * @param {number} channels
 * @param {(reason: string) => FormatError} damage
 * @returns {Colour}
 */
function readColour(bytes, raw, channels, damage) {
  const reader = new RecordReader(bytes, damage)
  const count = reader.u16()
  const shading = reader.u16()
  if (count > MAX_LAYERS) throw damage(`${count} layers, the limit is ${MAX_LAYERS}`)
  if (shading > SHADING_FREQUENCIES) throw damage(`shading ${shading} is not supported`)
  const frequencies = shading === SHADING_FREQUENCIES ? readFrequencies(reader, count, damage) : 0
  if (isHarmonic(shading)) {
    if (count) throw damage('spherical harmonics have no layers')
    if (channels !== 12 && channels !== 27) throw damage('spherical harmonics have 12 or 27 channels')
  } else if (!count && channels !== 3) {
    throw damage('without layers there must be 3 channels')
  }
  /** @type {Layer[]} */
  const layers = []
  for (let i = 0; i < count; i++) {
    const [out, inputs] = [reader.u32(), reader.u32()]
    for (const side of [out, inputs]) {
      if (side < 1 || side > MAX_SIDE) throw damage(`layer side ${side} is outside 1..${MAX_SIDE}`)
    }
    const wanted = i ? layers[i - 1].out : inputs
    const encoding = inputs - channels * (1 + 2 * frequencies) - 3
    const isJoined = inputs === wanted && (i > 0 || (encoding >= 0 && encoding % 6 === 0))
    if (!isJoined || (i === count - 1 && out !== 3)) throw damage('layers do not lead from the features to rgb')
    layers.push({ out, in: inputs, weight: reader.record(inputs), bias: reader.record(out) })
  }
  const tables = layers.flatMap(({ out, in: inputs, weight, bias }) => [
    { table: weight, items: out * inputs },
    { table: bias, items: out },
  ])
  const expected = tables.reduce((sum, { table, items }) => sum + items * bytesOfItem(table), 0)
  if (raw !== expected) throw damage(`raw length is ${raw}, expected ${expected}`)
  const decoded = decodeTables(
    reader.rest(),
    tables.map(({ table, items }, i) => ({ items, wide: table.type !== U8, base: () => 256 * i })),
    256 * tables.length,
  )
  for (const [i, { table }] of tables.entries()) fillTable(table, decoded[i], damage)
  return { shading, featureFrequencies: frequencies, layers }
}

/** From this many codewords on, each column of the codebook has contexts of its own. */
const COLUMN_CONTEXTS_FROM = 256

/**
 * @param {Uint8Array} bytes of BOOK
 * @param {number} raw
 * @param {Head} head
 * @param {(reason: string) => FormatError} damage
 */
function readCodebook(bytes, raw, { codebookSize, channels }, damage) {
  const reader = new RecordReader(bytes, damage)
  const table = reader.record(channels)
  const items = codebookSize * channels
  const expected = items * bytesOfItem(table)
  if (raw !== expected) throw damage(`raw length is ${raw}, expected ${expected}`)
  const byColumn = codebookSize >= COLUMN_CONTEXTS_FROM
  const base = byColumn ? (/** @type {number} */ item) => 256 * (item % channels) : () => 0
  const [decoded] = decodeTables(reader.rest(), [{ items, wide: table.type !== U8, base }], 256 * (byColumn ? channels : 1))
  fillTable(table, decoded, damage)
  return table
}

/**
 * A record of levels in bytes, as voxels have them.
 *
 * @param {RecordReader} reader
 * @param {number} columns
 */
function readLevels(reader, columns) {
  const table = reader.record(columns)
  if (table.type !== U8) throw reader.damage('levels of voxels are not bytes')
  return table
}

/**
 * Decode a file.
 *
 * @param {Uint8Array} bytes
 * @param {{ budget?: number }} [options] `budget`: the most bytes that the sections may decode to
 * @returns {CompressedField}
 * @throws {FormatError} that names the section, the byte and the reason
 */
export function decode(bytes, { budget = DEFAULT_BUDGET } = {}) {
  const sections = readSections(bytes, budget)
  /**
   * @template T
   * @param {string} name
   * @param {(bytes: Uint8Array, raw: number, damage: (reason: string) => FormatError) => T} read
   */
  const inSection = (name, read) => {
    const { offset, bytes: stored, raw } = /** @type {Section} */ (sections.get(name))
    const damage = (/** @type {string} */ reason) => new FormatError(name, offset, reason)
    try {
      return read(bytes.subarray(offset, offset + stored), raw, damage)
    } catch (error) {
      throw error instanceof Damaged ? damage(error.message) : error
    }
  }
  const head = inSection('HEAD', (part, _raw, damage) => {
    const read = readHead(part, damage)
    let demand = workingBytes(read.shape)
    for (const section of sections.values()) demand += section.raw
    if (demand > budget) throw damage(`decoding takes more than the limit of ${budget} bytes`)
    return read
  })
  const { shape, channels, nCoded, nKept } = head
  const expected = { PART: shape[0] * shape[1] * shape[2], DENS: nCoded + nKept, CODE: 4 * nCoded, KEPT: nKept * channels }
  for (const [name, length] of Object.entries(expected)) {
    const { raw, row } = /** @type {Section} */ (sections.get(name))
    if (raw !== length) throw new FormatError(name, row + 16, `raw length is ${raw}, expected ${length}`)
  }
  if (sections.has('META')) inSection('META', checkMetadataLength)
  const colour = inSection('COLR', (part, raw, damage) => readColour(part, raw, channels, damage))
  const codebook = inSection('BOOK', (part, raw, damage) => readCodebook(part, raw, head, damage))
  const partition = inSection('PART', (part, _raw, damage) => readPartition(part, head, damage))
  const density = inSection('DENS', (part, _raw, damage) => {
    const reader = new RecordReader(part, damage)
    const table = readLevels(reader, 1)
    table.items = decodeDensity(reader.rest(), partition, shape, nCoded + nKept)
    return table
  })
  const codes = inSection('CODE', (part) => decodeCodes(part, partition, shape, nCoded, head.codebookSize))
  const kept = inSection('KEPT', (part, _raw, damage) => {
    const reader = new RecordReader(part, damage)
    const table = readLevels(reader, channels)
    table.items = decodeKept(reader.rest(), partition, shape, nKept, channels)
    return table
  })
  const metadata = sections.has('META') ? inSection('META', readMetadata) : undefined
  const sizes = [...sections.values()].map(({ name, bytes: stored }) => ({ name, bytes: stored }))
  return { ...head, ...colour, metadata, codebook, partition, density, codes, kept, sections: sizes }
}

/**
 * What working memory that grows with the lattice counts against the budget: FORMAT.md section 2.
 *
 * @param {[number, number, number]} shape
 */
function workingBytes([x, y, z]) {
  const blocks = Math.ceil(x / 4) * Math.ceil(y / 4) * Math.ceil(z / 4)
  return Math.max(0, 24 * (y + 2) * (z + 2) + 2 * blocks - FREE_WORKING_BYTES)
}

/**
 * @param {Uint8Array} bytes
 * @param {number} _raw
 * @param {(reason: string) => FormatError} damage
 */
function checkMetadataLength(bytes, _raw, damage) {
  if (bytes.length < 1 || bytes.length > MAX_METADATA) {
    throw damage(`metadata of ${bytes.length} bytes is outside 1..${MAX_METADATA}`)
  }
}

/**
 * @param {Uint8Array} bytes
 * @param {number} _raw
 * @param {(reason: string) => FormatError} damage
 */
function readMetadata(bytes, _raw, damage) {
  const metadata = parseMetadata(bytes)
  if (!metadata) throw damage('metadata is not a canonical JSON object')
  return metadata
}

/**
 * @param {Uint8Array} bytes
 * @param {Head} head
 * @param {(reason: string) => FormatError} damage
 */
function readPartition(bytes, { shape, nCoded, nKept }, damage) {
  const partition = decodePartition(bytes, shape)
  const counts = [0, 0, 0]
  for (let i = 0; i < partition.length; i++) counts[partition[i]]++
  if (counts[1] !== nCoded || counts[2] !== nKept) {
    throw damage(`holds ${counts[1]} coded and ${counts[2]} kept voxels, the head says ${nCoded} and ${nKept}`)
  }
  return partition
}

/** @param {number} bits of a finite float16 */
function floatFromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24)
}

/**
 * What the items of a table are worth, with every rounding that FORMAT.md section 4 names.
 *
 * @param {Table} table
 * @returns {Float32Array}
 */
export function dequantize({ type, columns, items, scale, offset }) {
  if (type === FLOAT16) return Float32Array.from(items, floatFromHalf)
  const values = new Float32Array(items.length)
  const n = scale.length
  for (let i = 0; i < items.length; i++) {
    const column = n === 1 ? 0 : i % columns
    values[i] = offset[column] + Math.fround(scale[column] * items[i])
  }
  return values
}
