/** The decoder against `conformance/`: the arrays, and the section of every error. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

import { decode, dequantize, FormatError } from '../src/decode.js'
import { multiplyOut } from '../src/planes.js'
import { addUp } from '../src/pyramid.js'
import { readNpz } from './npz.js'

const CONFORMANCE = new URL('../../conformance/', import.meta.url)

/** @param {string} path under `conformance/` */
const bytesOf = (path) => new Uint8Array(readFileSync(new URL(path, CONFORMANCE)))

/** @param {string} folder */
const filesOf = (folder) => readdirSync(new URL(folder, CONFORMANCE)).filter((name) => name.endsWith('.vqrf'))

/**
 * The arrays of a decoded file under the names of `conformance/valid/*.npz`.
 *
 * @param {import('../src/decode.js').CompressedField} field
 */
function arraysOf(field) {
  const { emptyDensity, densityBias, interval, stepWorld, near, alphaThreshold, background } = field
  /** @type {Record<string, import('../src/decode.js').Table>} */
  const tables =
    'codebook' in field ? { density: field.density, codebook: field.codebook, kept: field.kept } : 'mix' in field ? { mix: field.mix } : {}
  for (const [i, { weight, bias }] of field.layers.entries()) Object.assign(tables, { [`weight${i}`]: weight, [`bias${i}`]: bias })
  /** @type {Record<string, ArrayLike<number>>} */
  const arrays = {
    lo: field.lo,
    hi: field.hi,
    constants: [emptyDensity, densityBias, interval, stepWorld, near, alphaThreshold, ...background],
    partition: field.partition,
    shading: [field.shading],
    activation: [field.activation],
  }
  if (field.space) arrays.space = field.space
  if (field.isUnbounded) arrays.space_number = [2]
  if (field.featureFrequencies) arrays.feature_frequencies = [field.featureFrequencies]
  if ('codebook' in field) {
    arrays.codes = field.codes
  } else if ('mix' in field) {
    for (const [kind, from] of /** @type {[string, number][]} */ ([['PLN', 0], ['LIN', 3]])) {
      const three = field.stacks.slice(from, from + 3)
      for (const i of three[0].keys()) {
        arrays[`${kind}${three[0].length - 1 - i}`] = three.flatMap((levels) => [...levels[i].coefficients])
      }
      arrays[kind === 'PLN' ? 'plane_steps' : 'line_steps'] = field.stackSteps.slice(from, from + 3).flatMap((steps) => [...steps])
    }
  } else {
    arrays.steps = field.steps
    if (field.basis) arrays.basis = field.basis
    for (const [i, { coefficients }] of field.levels.entries()) arrays[`LEV${field.levels.length - 1 - i}`] = coefficients
  }
  for (const [name, table] of Object.entries(tables)) {
    if (table.type !== 0) arrays[`${name}_levels`] = table.items
    arrays[name] = dequantize(table)
  }
  return arrays
}

/**
 * Density and features of a pyramid's voxels, or of planes and lines, under their names in `conformance/valid/*.npz`.
 *
 * @param {import('../src/decode.js').CompressedField} field
 * @returns {Record<string, ArrayLike<number>>}
 */
function sumsOf(field) {
  if ('codebook' in field) return {}
  if ('mix' in field) return multiplyOut(field, dequantize(field.mix))
  const values = addUp(field.steps, field.levels)
  const width = field.steps.length
  const { basis } = field
  const channels = basis ? basis.length / (width - 1) : width - 1
  /** @type {{ density: number[], features: number[] }} */
  const sums = { density: [], features: [] }
  for (let at = 0; at < values.length; at += width) {
    const latents = Array.from(values.subarray(at + 1, at + width))
    sums.density.push(values[at])
    for (let c = 0; c < channels; c++) {
      sums.features.push(basis ? latents.reduce((sum, value, z) => sum + value * basis[z * channels + c], 0) : latents[c])
    }
  }
  return sums
}

/**
 * Hold a field against the arrays beside its file: sums of levels and of products nearly, the rest to the bit.
 *
 * @param {import('../src/decode.js').CompressedField} field
 * @param {string} path of the file
 */
function checkArrays(field, path) {
  const { metadata, ...expected } = readNpz(readFileSync(new URL(path.replace('.vqrf', '.npz'), CONFORMANCE)))
  const sums = sumsOf(field)
  const found = { ...arraysOf(field), ...sums }
  assert.deepEqual(Object.keys(found).sort(), Object.keys(expected).sort())
  for (const [key, values] of Object.entries(expected)) {
    const there = Array.from(found[key])
    const wanted = Array.from(/** @type {ArrayLike<number>} */ (values))
    const far = key in sums ? 1e-5 * wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0) : 0
    const isLike = (/** @type {number} */ value, /** @type {number} */ i) => Object.is(value, wanted[i]) || Math.abs(value - wanted[i]) < far
    assert.ok(there.length === wanted.length && there.every(isLike), key)
  }
  const text = Buffer.from(/** @type {Uint8Array} */ (metadata)).toString()
  assert.deepEqual(field.metadata ?? {}, JSON.parse(text))
}

for (const name of filesOf('valid/')) {
  test(`${name} decodes to its arrays`, () => checkArrays(decode(bytesOf(`valid/${name}`)), `valid/${name}`))
}

for (const name of filesOf('truncated/')) {
  test(`${name}, cut off, shows what is there when asked for`, () => {
    assert.match(errorOf(bytesOf(`truncated/${name}`)).reason, /truncated/)
    checkArrays(decode(bytesOf(`truncated/${name}`), { truncated: true }), `truncated/${name}`)
  })
}

const expected = JSON.parse(readFileSync(new URL('invalid/expected.json', CONFORMANCE), 'utf8'))

/** @param {Uint8Array} bytes */
function errorOf(bytes) {
  try {
    decode(bytes)
  } catch (error) {
    if (error instanceof FormatError) return error
    throw error
  }
  return assert.fail('the file was accepted')
}

test('every invalid file has an expected error', () => {
  assert.deepEqual(filesOf('invalid/').sort(), Object.keys(expected).map((name) => `${name}.vqrf`).sort())
})

for (const [name, wanted] of Object.entries(expected)) {
  test(`${name}.vqrf is refused: ${wanted.section}, ${wanted.reason}`, () => {
    const { section, offset, reason } = errorOf(bytesOf(`invalid/${name}.vqrf`))
    assert.deepEqual({ section, offset, reason }, wanted)
  })
}

test('every beginning of a file is refused', () => {
  const whole = bytesOf('valid/all_coded.vqrf')
  for (let length = 0; length < whole.length; length++) assert.ok(errorOf(whole.subarray(0, length)))
})

test('every flipped bit is refused', () => {
  const whole = bytesOf('valid/all_coded.vqrf')
  for (let at = 0; at < whole.length; at++) {
    const flipped = whole.slice()
    flipped[at] ^= 1 << (at % 8)
    assert.ok(errorOf(flipped))
  }
})

test('a budget that the file exceeds by one byte is an error, its own size is not', () => {
  const whole = bytesOf('valid/shell.vqrf')
  const field = decode(whole)
  const view = new DataView(whole.buffer)
  const raw = field.sections.reduce((sum, _, i) => sum + view.getUint32(32 + 32 * i + 16, true), 0)
  decode(whole, { budget: raw })
  assert.throws(() => decode(whole, { budget: raw - 1 }), FormatError)
})
