/**
 * Decodes what comes on standard input, for a test in another language: each file after its length in four bytes, little-endian; its
 * argument is the budget. Answers each with a line: `ok` and the CRC-32 of the arrays, or section, offset and reason.
 */

import { crc32, decode, FormatError } from '../src/decode.js'

const budget = Number(process.argv[2])

/** @param {ArrayLike<number> & { buffer: ArrayBufferLike, byteOffset: number, byteLength: number }} array */
const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)

/** @param {Uint8Array} bytes */
function answer(bytes) {
  try {
    const { partition, density, codes, kept, codebook, layers } = decode(bytes, { budget })
    const tables = [density, kept, codebook, ...layers.flatMap(({ weight, bias }) => [weight, bias])]
    return `ok ${crc32(partition, bytesOf(codes), ...tables.map(({ items }) => bytesOf(items)))}`
  } catch (error) {
    if (error instanceof FormatError) return `${error.section} ${error.offset} ${error.reason}`
    throw error
  }
}

let waiting = Buffer.alloc(0)
for await (const chunk of process.stdin) {
  waiting = Buffer.concat([waiting, chunk])
  while (waiting.length >= 4) {
    const end = 4 + waiting.readUInt32LE(0)
    if (waiting.length < end) break
    process.stdout.write(`${answer(Uint8Array.from(waiting.subarray(4, end)))}\n`)
    waiting = waiting.subarray(end)
  }
}
