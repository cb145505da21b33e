/**
 * A .vqrf file as sections: header, section table, checksums, and the numbers that a section begins with.
 *
 * Written from FORMAT.md, sections 1 to 3 and 7. Safe for untrusted input: what is said to be there is there, once and in order,
 * and decodes to no more than the caller allows.
 */

import { Damaged } from './entropy.js'

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
 * @property {number} crc
 * @property {boolean} isHere false for a level that a truncated file lacks
 */

/** @typedef {Section & { stored: bigint, decoded: bigint }} Row a section before its lengths are known to be small */

const SIGNATURE = [0x89, 0x56, 0x51, 0x52, 0x0d, 0x0a, 0x1a, 0x0a]
/** The last major version that is read: the second says in which space a file lies, the third is of planes and lines. */
export const MAX_MAJOR = 3
const HEADER_BYTES = 32
const ROW_BYTES = 32
const MAX_SECTIONS = 64
/** Raw bytes to one stored byte; no stream is denser. */
const MAX_RATIO = 2n ** 19n

/** The levels of a pyramid, of the three planes, of the three lines, coarsest first. */
const [LEVELS, PLANES, LINES] = ['LEV', 'PLN', 'LIN'].map((kind) => [8, 7, 6, 5, 4, 3, 2, 1, 0].map((level) => kind + level))
/** Known sections in their order. */
const KNOWN = [...'HEAD SPAC META COLR BOOK STEP PART DENS CODE KEPT'.split(' '), ...LEVELS]
const KNOWN_OF_PLANES = [...'HEAD META COLR PLAN MIXT PART'.split(' '), ...PLANES, ...LINES]
/** What only a file with a codebook has. */
const OF_CODEBOOK = ['BOOK', 'DENS', 'CODE', 'KEPT']

/** @param {number} major */
const knownOf = (major) => (major === MAX_MAJOR ? KNOWN_OF_PLANES : KNOWN.filter((name) => name !== 'SPAC' || major > 1))

/** @param {string} name */
const isCritical = (name) => name !== 'META'
/** @param {string} name */
const isCoded = (name) => !['HEAD', 'SPAC', 'META', 'STEP', 'PLAN'].includes(name)

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
  const refuse = (/** @type {number} */ at, /** @type {string} */ reason) => new FormatError('header', at, reason)
  const isStart = SIGNATURE.every((byte, i) => i >= n || bytes[i] === byte)
  if (!isStart) throw refuse(0, 'not a .vqrf file')
  if (n < HEADER_BYTES) throw refuse(n, `truncated: the header has ${HEADER_BYTES} bytes, the file ${n}`)
  const [major, minor] = [view.getUint16(8, true), view.getUint16(10, true)]
  if (!major || major > MAX_MAJOR) {
    throw refuse(8, `version ${major}.${minor} is not supported: this reader knows 1.x to 3.x`)
  }
  const count = view.getUint32(12, true)
  if (count < 1 || count > MAX_SECTIONS) {
    throw refuse(12, `section count ${count} is outside 1..${MAX_SECTIONS}`)
  }
  const end = HEADER_BYTES + ROW_BYTES * count
  if (n < end) throw refuse(n, `truncated: header and section table have ${end} bytes, the file ${n}`)
  const crc = crc32(bytes.subarray(0, 28), bytes.subarray(HEADER_BYTES, end))
  if (crc !== view.getUint32(28, true)) throw refuse(28, 'checksum mismatch')
  if (view.getUint32(24, true)) throw refuse(24, 'reserved bytes are not zero')
  return count
}

/**
 * @param {Uint8Array} bytes
 * @param {DataView} view
 * @param {number} count
 * @returns {Row[]}
 */
function readTable(bytes, view, count) {
  const rows = []
  const known = knownOf(view.getUint16(8, true))
  const length = view.getBigUint64(16, true)
  let next = 0
  let end = BigInt(HEADER_BYTES + ROW_BYTES * count)
  for (let i = 0; i < count; i++) {
    const row = HEADER_BYTES + ROW_BYTES * i
    const name = String.fromCharCode(...bytes.subarray(row, row + 4))
    if (!/^[A-Z0-9]{4}$/.test(name)) {
      throw new FormatError('header', row, 'section name is not four capital letters or digits')
    }
    const refuse = (/** @type {number} */ at, /** @type {string} */ reason) => new FormatError(name, row + at, reason)
    const flags = view.getUint16(row + 4, true)
    const method = view.getUint16(row + 6, true)
    const at = known.indexOf(name)
    if (at < 0) {
      if (flags & 1) throw refuse(0, 'unknown critical section')
    } else {
      if (flags !== +isCritical(name)) throw refuse(4, `flags are ${flags}, not the section's`)
      if (method !== +isCoded(name)) throw refuse(6, `coding method ${method} is not supported`)
      if (view.getUint32(row + 28, true)) throw refuse(28, 'reserved bytes are not zero')
      if (at < next) throw refuse(0, 'appears twice or out of order')
      next = at + 1
    }
    const [stored, decoded] = [view.getBigUint64(row + 8, true), view.getBigUint64(row + 16, true)]
    end += stored
    if (end > length) break // row by row, as FORMAT.md section 7 has it: what is wrong with a later one is not reached
    rows.push({ name, row, offset: 0, bytes: 0, raw: 0, crc: view.getUint32(row + 24, true), isHere: true, stored, decoded })
  }
  if (end !== length) throw new FormatError('header', 16, `file length ${length} is not the sum of its parts`)
  return rows
}

/**
 * Read the table of sections and check that it says what the file is.
 *
 * @param {Uint8Array} bytes
 * @param {number} budget
 * @param {boolean} truncated levels after the coarsest may be missing
 * @returns {Map<string, Section>} the known sections
 */
export function readSections(bytes, budget, truncated) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const count = checkHeader(bytes, view)
  const rows = readTable(bytes, view, count)
  const length = view.getBigUint64(16, true)
  let end = BigInt(HEADER_BYTES + ROW_BYTES * count)
  let isOptional = false
  for (const section of rows) {
    section.offset = Number(end)
    end += section.stored
    section.isHere = end <= bytes.length
    if (!section.isHere && !isOptional) {
      throw new FormatError(section.name, bytes.length, `truncated: ends at byte ${end}, the file has ${bytes.length}`)
    }
    section.bytes = Number(section.stored)
    isOptional ||= truncated && LEVELS.includes(section.name)
  }
  if (bytes.length > length) throw new FormatError('end', Number(end), `${bytes.length - Number(end)} trailing bytes`)
  for (const { name, offset, bytes: stored, crc, isHere } of rows) {
    if (isHere && crc32(bytes.subarray(offset, offset + stored)) !== crc) throw new FormatError(name, offset, 'checksum mismatch')
  }
  return checkLengths(rows, budget, knownOf(view.getUint16(8, true)))
}

/**
 * @param {Row[]} rows
 * @param {number} budget
 * @param {string[]} known
 */
function checkLengths(rows, budget, known) {
  /** @type {Map<string, Section>} */
  const sections = new Map()
  let total = 0
  for (const section of rows) {
    const { name, stored, decoded, row } = section
    if (!known.includes(name)) continue
    const refuse = (/** @type {string} */ reason) => new FormatError(name, row + 16, reason)
    if (!isCoded(name) && decoded !== stored) throw refuse(`raw length ${decoded} is not the stored length`)
    if (isCoded(name) && name !== 'CODE' && decoded / MAX_RATIO > stored) {
      throw refuse(`raw length ${decoded} is too great for ${stored} stored bytes`)
    }
    section.raw = Number(decoded)
    total += section.raw
    if (total > budget) throw refuse(`decoded sections take more than the limit of ${budget} bytes`)
    sections.set(name, section)
  }
  if (!sections.has('HEAD')) throw new FormatError('HEAD', HEADER_BYTES, 'section is missing')
  return sections
}

/**
 * Check that the sections are those of the file's kind, none too few and none too many.
 *
 * @param {Map<string, Section>} sections
 * @param {boolean} isPyramid
 * @param {number} major version of the file
 */
export function checkKind(sections, isPyramid, major) {
  /** @type {(names: string[]) => string[]} those that must be there: as many as there are, the finest among them */
  const due = (names) => names.slice(-(names.filter((name) => sections.has(name)).length || 1))
  const ofPlanes = ['PLAN', 'MIXT', ...due(PLANES), ...due(LINES)]
  const own = major === MAX_MAJOR ? ofPlanes : isPyramid ? ['STEP', ...due(LEVELS)] : OF_CODEBOOK
  for (const name of knownOf(major)) {
    const section = sections.get(name)
    const belongs = ['HEAD', 'SPAC', 'META', 'COLR', 'PART', ...own].includes(name)
    if (belongs && !section && isCritical(name)) throw new FormatError(name, HEADER_BYTES, 'section is missing')
    if (section && !belongs) throw new FormatError(name, section.row, 'does not belong to a file of this kind')
  }
}

/** Reads a section from the front: the small things, then the stream. */
export class SectionReader {
  /**
   * @param {Uint8Array} file
   * @param {Section} section
   */
  constructor(file, section) {
    this.section = section
    this.bytes = file.subarray(section.offset, section.offset + section.bytes)
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length)
    this.at = 0
  }

  /** @param {string} reason */
  refuse(reason) {
    return new FormatError(this.section.name, this.section.offset, reason)
  }

  /** @param {string} what @param {number} value @param {number} least @param {number} most */
  expect(what, value, least, most) {
    if (value < least || value > most) throw this.refuse(`${what} ${value} is outside ${least}..${most}`)
  }

  /** @param {number} n bytes that are not read yet @param {string} [what] they are */
  expectLeft(n, what = '') {
    const rest = this.bytes.length - this.at
    if (rest !== n) throw this.refuse(`has ${rest} bytes${what}, expected ${n}`)
  }

  /** @param {number} n bytes; returns where they begin */
  take(n) {
    const at = this.at
    if (n > this.bytes.length - at) throw this.refuse('ends inside its own header')
    this.at += n
    return at
  }

  u16() {
    return this.view.getUint16(this.take(2), true)
  }

  u32() {
    return this.view.getUint32(this.take(4), true)
  }

  f64() {
    return this.view.getFloat64(this.take(8), true)
  }

  /**
   * @param {number} n
   * @returns {Float32Array}
   */
  floats(n) {
    const at = this.take(4 * n)
    return new Float32Array(n).map((_, i) => this.view.getFloat32(at + 4 * i, true))
  }

  /**
   * Decode what is left.
   *
   * @template T
   * @param {(stream: Uint8Array) => T} read
   */
  decode(read) {
    try {
      return read(this.bytes.subarray(this.at))
    } catch (error) {
      throw error instanceof Damaged ? this.refuse(error.message) : error
    }
  }
}

/**
 * @param {Section} section
 * @param {number} expected
 */
export function expectRaw({ name, row, raw }, expected) {
  if (raw !== expected) throw new FormatError(name, row + 16, `raw length is ${raw}, expected ${expected}`)
}
