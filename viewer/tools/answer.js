/**
 * Decodes what comes on standard input, for a test in another language: each file after its length in four bytes, little-endian; its
 * argument is the budget. Answers each with a line: `ok` and the CRC-32 of the arrays, or section, offset and reason; after a tab
 * the same for a file that may be cut off.
 */

import { crc32, decode, FormatError } from '../src/decode.js'

const budget = Number(process.argv[2])

/** @param {ArrayLike<number> & { buffer: ArrayBufferLike, byteOffset: number, byteLength: number }} array */
const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)

/**
 * @param {Uint8Array} bytes
 * @param {boolean} truncated
 */
function answer(bytes, truncated) {
  try {
    const field = decode(bytes, { budget, truncated })
    const tables = field.layers.flatMap(({ weight, bias }) => [weight, bias])
    const arrays =
      'codebook' in field
        ? [field.codes, ...[field.density, field.kept, field.codebook].map(({ items }) => items)]
        : 'mix' in field
          ? [...field.stackSteps, field.mix.items, ...field.stacks.flatMap((levels) => levels.map(({ coefficients }) => coefficients))]
          : [field.steps, ...(field.basis ? [field.basis] : []), ...field.levels.map(({ coefficients }) => coefficients)]
    return `ok ${crc32(field.partition, ...[...arrays, ...tables.map(({ items }) => items)].map(bytesOf))}`
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
    const file = Uint8Array.from(waiting.subarray(4, end))
    process.stdout.write(`${answer(file, false)}\t${answer(file, true)}\n`)
    waiting = waiting.subarray(end)
  }
}
