/**
 * From the bytes of a .vqrf file to its arrays, or to one error that says where the file is damaged.
 *
 * Written from FORMAT.md and `conformance/`. Safe for untrusted input: every number is checked against the limits of the format
 * before anything is allocated for it.
 */

import { checkKind, expectRaw, MAX_MAJOR, readSections, SectionReader } from './container.js'
import { CODED, decodeCodes, decodeDensity, decodeKept, decodePartition, decodeTables, KEPT } from './entropy.js'
import { parseMetadata } from './metadata.js'
import { readPlanes } from './planes.js'
import { readPyramid, workingBytesOfLevels } from './pyramid.js'

export { crc32, FormatError } from './container.js'

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
 * @property {number} codebookSize 0 in a pyramid
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
 * @property {number[]} [space] the map of its space, 16 numbers, row by row; none in a box
 * @property {boolean} [isUnbounded] whether places are drawn in from all around, and not those of a projective map
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
 * What all kinds of file have.
 *
 * @typedef {Head & Colour & {
 *   head: Head,
 *   metadata: Record<string, unknown> | undefined,
 *   partition: Uint8Array,
 *   sections: { name: string, bytes: number }[],
 * }} Common
 */

/** @typedef {Common & { codebook: Table, density: Table, codes: Int32Array, kept: Table }} CodebookField */

/** @typedef {CodebookField | (Common & (import('./pyramid.js').Pyramid | import('./planes.js').Planes))} CompressedField */

const HEAD_BYTES = 116
const SPACE_BYTES = 132
const MAX_SECTIONS = 64
const MAX_SIDE = 4096
const MAX_VOXELS = 2 ** 31
const MAX_CHANNELS = 64
const MAX_CODEBOOK = 65536
const MAX_LAYERS = 16
const MAX_METADATA = 1048576
const MAX_FREQUENCIES = 10
/** What a file may decode to unless the caller says otherwise. */
export const DEFAULT_BUDGET = 2 ** 30
const FREE_WORKING_BYTES = 2 ** 20

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

/**
 * @param {SectionReader} reader of HEAD
 * @returns {Head}
 */
function readHead(reader) {
  reader.expectLeft(HEAD_BYTES)
  /** @returns {[number, number, number]} */
  const three = (/** @type {() => number} */ read) => [read(), read(), read()]
  const u32 = () => reader.u32()
  const f64 = () => reader.f64()
  const [lo, hi, shape] = [three(f64), three(f64), three(u32)]
  const [channels, codebookSize, nCoded, nKept] = [u32(), u32(), u32(), u32()]
  const constants = [...reader.floats(9)]
  const [emptyDensity, densityBias, interval, stepWorld, near, alphaThreshold, ...background] = constants
  const activation = u32()
  for (const side of shape) reader.expect('side', side, 2, MAX_SIDE)
  const nVoxels = shape[0] * shape[1] * shape[2]
  if (nVoxels > MAX_VOXELS) throw reader.refuse(`${nVoxels} voxels, the limit is ${MAX_VOXELS}`)
  reader.expect('channel count', channels, 1, MAX_CHANNELS)
  if (codebookSize) reader.expect('codebook size', codebookSize, 1, MAX_CODEBOOK)
  if (!codebookSize && nKept) throw reader.refuse('a pyramid keeps no voxels')
  if (nCoded + nKept > nVoxels) throw reader.refuse('more voxels hold values than there are')
  if (![...lo, ...hi].every(Number.isFinite) || lo.some((value, axis) => value >= hi[axis])) {
    throw reader.refuse('bounds are not finite with lo < hi')
  }
  if (!constants.every(Number.isFinite)) throw reader.refuse('a constant is not finite')
  if (!(interval > 0 && stepWorld > 0)) throw reader.refuse('interval or step_world is not positive')
  if (activation > ACTIVATION_RELU) throw reader.refuse(`activation ${activation} is not supported`)
  return {
    ...{ lo, hi, shape, channels, codebookSize, nCoded, nKept },
    ...{ emptyDensity, densityBias, interval, stepWorld, near, alphaThreshold, activation },
    background: /** @type {[number, number, number]} */ (background),
  }
}

/**
 * @param {SectionReader} reader of SPAC
 */
function readSpace(reader) {
  reader.expectLeft(SPACE_BYTES)
  const [number, reserved] = [reader.u16(), reader.u16()]
  if (number !== 1 && number !== 2) throw reader.refuse(`space ${number} is not supported`)
  if (reserved) throw reader.refuse('reserved bytes are not zero')
  const space = Array.from({ length: 16 }, () => reader.f64())
  if (!space.every(Number.isFinite)) throw reader.refuse('a number of the space is not finite')
  const isUnbounded = number === 2
  if (isUnbounded && (space[12] || space[13] || space[14] || space[15] !== 1)) throw reader.refuse('the map of the space is not affine')
  return { space, isUnbounded }
}

/**
 * A quantiser record; the items come later.
 *
 * @param {SectionReader} reader
 * @param {number} columns
 * @returns {Table}
 */
function readRecord(reader, columns) {
  const at = reader.take(2)
  const [type, mode] = reader.bytes.subarray(at, at + 2)
  if (reader.u16()) throw reader.refuse('reserved bytes are not zero')
  if (type > U16) throw reader.refuse(`table type ${type} is not supported`)
  const isFit = type === FLOAT16 ? mode === 0 : mode === ONE_SCALE || (mode === SCALE_BY_COLUMN && columns > 1)
  if (!isFit) throw reader.refuse(`quantiser mode ${mode} does not fit the table`)
  const n = type === FLOAT16 ? 0 : mode === ONE_SCALE ? 1 : columns
  const [scale, offset] = [reader.floats(n), reader.floats(n)]
  if (![...scale, ...offset].every(Number.isFinite)) throw reader.refuse('scale or offset is not finite')
  return { type, columns, items: new Uint8Array(0), scale, offset }
}

/** @param {Table} table */
const bytesOfItem = ({ type }) => (type === U8 ? 1 : 2)

/**
 * Fill tables whose records are read.
 *
 * @param {SectionReader} reader
 * @param {{ table: Table, items: number, base: (item: number) => number }[]} tables
 * @param {number} nContexts
 */
function fillTables(reader, tables, nContexts) {
  expectRaw(reader.section, tables.reduce((sum, { table, items }) => sum + items * bytesOfItem(table), 0))
  const wanted = tables.map(({ table, items, base }) => ({ items, wide: table.type !== U8, base }))
  const decoded = reader.decode((stream) => decodeTables(stream, wanted, nContexts))
  for (const [i, { table }] of tables.entries()) {
    const items = decoded[i]
    table.items = table.type === U8 ? Uint8Array.from(items) : items
    if (table.type === FLOAT16 && items.some((bits) => (bits & 0x7c00) === 0x7c00)) throw reader.refuse('a value is not finite')
  }
}

/**
 * @param {SectionReader} reader
 * @param {number} layers
 */
function readFrequencies(reader, layers) {
  const frequencies = reader.u16()
  if (reader.u16() || !frequencies) throw reader.refuse('feature frequencies without one, or reserved bytes that are not zero')
  if (frequencies > MAX_FREQUENCIES) throw reader.refuse(`${frequencies} feature frequencies are outside 0..${MAX_FREQUENCIES}`)
  if (!layers) throw reader.refuse('feature frequencies without layers')
  return frequencies
}

/**
 * @param {SectionReader} reader of COLR
 * @param {number} channels
 * @returns {Colour}
 */
function readColour(reader, channels) {
  
  const count = reader.u16()
  const shading = reader.u16()
  if (count > MAX_LAYERS) throw reader.refuse(`${count} layers, the limit is ${MAX_LAYERS}`)
  if (shading > SHADING_FREQUENCIES) throw reader.refuse(`shading ${shading} is not supported`)
  const frequencies = shading === SHADING_FREQUENCIES ? readFrequencies(reader, count) : 0
  if (isHarmonic(shading)) {
    if (count) throw reader.refuse('spherical harmonics have no layers')
    if (channels !== 12 && channels !== 27) throw reader.refuse('spherical harmonics have 12 or 27 channels')
  } else if (!count && channels !== 3) {
    throw reader.refuse('without layers there must be 3 channels')
  }
  /** @type {Layer[]} */
  const layers = []
  for (let i = 0; i < count; i++) {
    const [out, inputs] = [reader.u32(), reader.u32()]
    for (const side of [out, inputs]) reader.expect('layer side', side, 1, MAX_SIDE)
    const wanted = i ? layers[i - 1].out : inputs
    const encoding = inputs - channels * (1 + 2 * frequencies) - 3
    const isJoined = inputs === wanted && (i > 0 || (encoding >= 0 && encoding % 6 === 0))
    if (!isJoined || (i === count - 1 && out !== 3)) throw reader.refuse('layers do not lead from the features to rgb')
    layers.push({ out, in: inputs, weight: readRecord(reader, inputs), bias: readRecord(reader, out) })
  }
  const tables = layers.flatMap(({ out, in: inputs, weight, bias }, i) => [
    { table: weight, items: out * inputs, base: () => 512 * i },
    { table: bias, items: out, base: () => 512 * i + 256 },
  ])
  fillTables(reader, tables, 256 * tables.length)
  return { shading, featureFrequencies: frequencies, layers }
}

/** From this many codewords on, each column of the codebook has contexts of its own. */
const COLUMN_CONTEXTS_FROM = 256

/**
 * A table alone in its section.
 *
 * @param {SectionReader} reader
 * @param {number} rows
 * @param {number} columns
 * @param {number} [trees] with contexts of their own, one for each column or one for all
 */
function readTable(reader, rows, columns, trees = 1) {
  const table = readRecord(reader, columns)
  fillTables(reader, [{ table, items: rows * columns, base: (item) => 256 * (item % trees) }], 256 * trees)
  return table
}

/**
 * Levels in bytes, as voxels have them.
 *
 * @param {SectionReader} reader
 * @param {number} columns
 * @param {(stream: Uint8Array) => Uint8Array} read
 */
function readLevels(reader, columns, read) {
  const table = readRecord(reader, columns)
  if (table.type !== U8) throw reader.refuse('levels of voxels are not bytes')
  table.items = reader.decode(read)
  return table
}

/**
 * Decode a file.
 *
 * @param {Uint8Array} bytes
 * @param {{ budget?: number, truncated?: boolean, onColour?: (field: Head & Colour) => void,
 *   onCoarse?: (field: Common & import('./pyramid.js').Pyramid) => void }} [options]
 *   `budget`: the most bytes that the sections may decode to; `truncated`: take a pyramid that is cut off after its coarsest level,
 *   with zeros for what is missing; `onColour` gets what is known before the voxels, `onCoarse` a pyramid without its finest level
 * @returns {CompressedField}
 * @throws {FormatError} that names the section, the byte and the reason
 */
export function decode(bytes, { budget = DEFAULT_BUDGET, truncated = false, onColour, onCoarse } = {}) {
  const sections = readSections(bytes, budget, truncated)
  const sectionOf = (/** @type {string} */ name) => /** @type {import('./container.js').Section} */ (sections.get(name))
  const open = (/** @type {string} */ name) => new SectionReader(bytes, sectionOf(name))
  const head = readHead(open('HEAD'))
  const { shape, channels, codebookSize, nCoded, nKept } = head
  const isPyramid = codebookSize === 0
  const major = bytes[8] | (bytes[9] << 8)
  const isPlanes = major === MAX_MAJOR
  checkKind(sections, isPyramid, major)
  if (isPlanes && !isPyramid) throw open('HEAD').refuse('planes and lines have no codebook')
  const openAll = (/** @type {string} */ kind) => [...sections.keys()].filter((name) => name.startsWith(kind)).map(open)
  let demand = workingBytes(shape, sections)
  for (const section of sections.values()) demand += section.raw
  if (demand > budget) throw open('HEAD').refuse(`decoding takes more than the limit of ${budget} bytes`)
  if (sections.has('SPAC')) Object.assign(head, readSpace(open('SPAC')))
  expectRaw(sectionOf('PART'), shape[0] * shape[1] * shape[2])
  const meta = sections.has('META') ? open('META') : undefined
  if (!isPyramid) {
    expectRaw(sectionOf('DENS'), nCoded + nKept)
    expectRaw(sectionOf('CODE'), 4 * nCoded)
    expectRaw(sectionOf('KEPT'), nKept * channels)
  }
  const metaBytes = meta?.bytes.length ?? 0
  if (metaBytes > MAX_METADATA) throw meta?.refuse(`metadata has ${metaBytes} bytes, the limit is ${MAX_METADATA}`)
  const colour = readColour(open('COLR'), channels)
  onColour?.({ ...head, ...colour })
  const readPart = () => readPartition(open('PART'), head)
  const metadata = meta && parseMetadata(meta.bytes)
  const sizes = [...sections.values()].map(({ name, bytes: stored, isHere }) => ({ name, bytes: isHere ? stored : 0 }))
  const common = { ...head, head, ...colour, metadata, sections: sizes }
  const own = isPlanes
    ? readPlanes(openAll, head, (rows) => readTable(open('MIXT'), rows, channels), readPart)
    : isPyramid
      ? readPyramid(open('STEP'), openAll('LEV'), head, readPart, (coarse) => onCoarse?.({ ...common, ...coarse }))
      : readVoxels(open, head, readPart)
  if (meta && !metadata) throw meta.refuse('metadata is not a canonical JSON object')
  return { ...common, ...own }
}

/**
 * What only a file with a codebook has, and its partition.
 *
 * @param {(name: string) => SectionReader} open
 * @param {Head} head
 * @param {() => Uint8Array} readPart
 */
function readVoxels(open, head, readPart) {
  const { shape, channels, codebookSize, nCoded, nKept } = head
  const codebook = readTable(open('BOOK'), codebookSize, channels, codebookSize < COLUMN_CONTEXTS_FROM ? 1 : channels)
  const partition = readPart()
  const density = readLevels(open('DENS'), 1, (stream) => decodeDensity(stream, partition, shape, nCoded + nKept))
  const codes = open('CODE').decode((stream) => decodeCodes(stream, partition, shape, nCoded, codebookSize))
  const kept = readLevels(open('KEPT'), channels, (stream) => decodeKept(stream, partition, shape, nKept, channels))
  return { codebook, partition, density, codes, kept }
}

/**
 * What working memory that grows with the lattice counts against the budget: FORMAT.md section 2.
 *
 * @param {readonly [number, number, number]} shape
 * @param {Map<string, import('./container.js').Section>} sections
 */
function workingBytes(shape, sections) {
  const [x, y, z] = shape
  const blocks = Math.ceil(x / 4) * Math.ceil(y / 4) * Math.ceil(z / 4)
  const levels = [...sections.values()].filter(({ name }) => /^(LEV|PLN|LIN)/.test(name))
  const raw = levels.reduce((sum, section) => sum + section.raw, 0)
  const above = sections.has('PLAN') ? 12 * (x * y + x * z + y * z) : workingBytesOfLevels(shape, levels.length)
  return Math.max(0, 24 * (y + 2) * (z + 2) + 2 * blocks + Math.floor(raw / 2) + above - FREE_WORKING_BYTES)
}

/**
 * @param {SectionReader} reader of PART
 * @param {Head} head
 */
function readPartition(reader, { shape, nCoded, nKept }) {
  const counts = [0, 0, 0]
  const partition = reader.decode((stream) => decodePartition(stream, shape, counts))
  if (counts[CODED] !== nCoded || counts[KEPT] !== nKept) {
    throw reader.refuse(`holds ${counts[CODED]} coded and ${counts[KEPT]} kept voxels, the head says ${nCoded} and ${nKept}`)
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
