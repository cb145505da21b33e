/** Reads the arrays of an .npz file: a zip of .npy files. Just what `conformance/` holds: little-endian numbers and texts. */

import { inflateRawSync } from 'node:zlib'

const END_OF_DIRECTORY = 0x06054b50

/**
 * @param {Buffer} zip
 * @returns {Map<string, Buffer>}
 */
function unzip(zip) {
  let end = zip.length - 22
  while (zip.readUInt32LE(end) !== END_OF_DIRECTORY) end--
  let at = zip.readUInt32LE(end + 16)
  const files = new Map()
  for (let n = zip.readUInt16LE(end + 10); n > 0; n--) {
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((field) => zip.readUInt16LE(at + field))
    const name = zip.toString('utf8', at + 46, at + 46 + nameLength)
    const local = zip.readUInt32LE(at + 42)
    const start = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28)
    const stored = zip.subarray(start, start + zip.readUInt32LE(at + 20))
    files.set(name, zip.readUInt16LE(at + 10) ? inflateRawSync(stored) : stored)
    at += 46 + nameLength + extraLength + commentLength
  }
  return files
}

/** @type {Record<string, (data: Buffer) => ArrayLike<number> | string>} */
const READERS = {
  '|u1': (data) => new Uint8Array(data),
  '<u2': (data) => new Uint16Array(new Uint8Array(data).buffer),
  '<i2': (data) => new Int16Array(new Uint8Array(data).buffer),
  '<i4': (data) => new Int32Array(new Uint8Array(data).buffer),
  '<f2': (data) => Float32Array.from(new Uint16Array(new Uint8Array(data).buffer), floatFromHalf),
  '<f4': (data) => new Float32Array(new Uint8Array(data).buffer),
  '<f8': (data) => new Float64Array(new Uint8Array(data).buffer),
}

/** @param {number} bits */
function floatFromHalf(bits) {
  // Written another way than the decoder's, which it judges.
  const view = new DataView(new ArrayBuffer(4))
  const exponent = (bits >> 10) & 31
  if (exponent === 0) return (bits & 0x8000 ? -1 : 1) * (bits & 1023) * 5.9604644775390625e-8
  view.setUint32(0, ((bits & 0x8000) << 16) | ((exponent + 112) << 23) | ((bits & 1023) << 13))
  return view.getFloat32(0)
}

/** @param {Buffer} npy */
function readArray(npy) {
  const end = 10 + npy.readUInt16LE(8)
  const header = npy.toString('latin1', 10, end)
  const type = /'descr': '([^']*)'/.exec(header)?.[1] ?? ''
  const data = npy.subarray(end)
  if (/^<U/.test(type)) return data.toString('utf16le').replaceAll('\0', '')
  const read = READERS[type]
  if (!read) throw new Error(`no reader for ${header}`)
  return read(data)
}

/**
 * @param {Buffer} file
 * @returns {Record<string, ArrayLike<number> | string>}
 */
export function readNpz(file) {
  return Object.fromEntries(Array.from(unzip(file), ([name, npy]) => [name.replace(/\.npy$/, ''), readArray(npy)]))
}
