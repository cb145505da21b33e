/** Pyramids against what the Python package expands them to, and what is left of one that is cut off. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

import { makeTextures, BLOCK_CELLS, BRICK } from '../src/textures.js'
import { crc32, decode, FormatError } from '../src/decode.js'
import { readNpz } from './npz.js'

const FOLDER = new URL('pyramids/', import.meta.url)
const NAMES = readdirSync(FOLDER).filter((name) => name.endsWith('.vqrf')).map((name) => name.replace('.vqrf', ''))

/** @param {string} name */
const bytesOf = (name) => new Uint8Array(readFileSync(new URL(`${name}.vqrf`, FOLDER)))

/** @param {string} name @returns {Record<string, any>} */
const arraysOf = (name) => readNpz(readFileSync(new URL(`${name}.npz`, FOLDER)))

/**
 * @param {Uint8Array} bytes
 * @param {{ truncated?: boolean }} [options]
 */
function pyramidOf(bytes, options) {
  const field = decode(bytes, options)
  assert.ok('levels' in field)
  return field
}

/**
 * @param {Uint8Array} bytes
 * @param {{ truncated?: boolean }} [options]
 */
function errorOf(bytes, options) {
  try {
    decode(bytes, options)
  } catch (error) {
    if (error instanceof FormatError) return error
    throw error
  }
  return undefined
}

/**
 * Density, share and features that the textures hold at a voxel.
 *
 * @param {import('../src/textures.js').Drawn} drawn
 * @param {number[]} place x, y, z
 */
function texelAt({ blocks, table, bricks, density, densityRange, features, channels, featureScale, featureOffset }, place) {
  const block = place.map((at, axis) => Math.min(Math.floor(at / BLOCK_CELLS), blocks[axis] - 1))
  const row = 4 * ((block[0] * blocks[1] + block[1]) * blocks[2] + block[2])
  if (table[row + 3]) return undefined
  const [x, y, z] = place.map((at, axis) => ((table[row + 2] >> (8 * axis)) & 255) * BRICK + at - BLOCK_CELLS * block[axis])
  const texel = (x * bricks[1] * BRICK + y) * bricks[2] * BRICK + z
  const worth = Array.from({ length: channels }, (_, c) => (features[c >> 2][4 * texel + (c & 3)] / 255) * featureScale[c] + featureOffset[c])
  const [high, share, low] = density.subarray(4 * texel)
  return { level: high + low / 256, share, density: (densityRange[0] / 255) * (high + low / 256) + densityRange[1], worth }
}

for (const name of NAMES) {
  test(`${name}: the coefficients are those of the Python package`, () => {
    const { density: _density, features: _features, ...expected } = arraysOf(name)
    const { levels } = pyramidOf(bytesOf(name))
    assert.equal(levels.length, Object.keys(expected).length)
    for (const [i, { coefficients }] of levels.entries()) {
      assert.deepEqual(coefficients, expected[`LEV${levels.length - 1 - i}`])
    }
  })

  test(`${name}: textures hold the densities and features that they add up to`, () => {
    const { density, features } = arraysOf(name)
    const field = pyramidOf(bytesOf(name))
    const drawn = makeTextures(field, 2048)
    const [, Y, Z] = field.shape
    let node = 0
    let seen = 0
    for (let voxel = 0; voxel < field.partition.length; voxel++) {
      const found = texelAt(drawn, [Math.floor(voxel / (Y * Z)), Math.floor(voxel / Z) % Y, voxel % Z])
      if (!field.partition[voxel]) {
        if (found) assert.deepEqual([found.level, found.share], [0, 0])
        continue
      }
      if (found) {
        seen++
        const step = drawn.densityRange[0] / 255 / 256
        assert.ok(Math.abs(found.density - density[node]) <= 0.51 * step + 1e-5 * (1 + Math.abs(density[node])))
        assert.equal(found.share, 255)
        for (let c = 0; c < field.channels; c++) {
          const off = Math.abs(found.worth[c] - features[node * field.channels + c])
          assert.ok(off <= 0.51 * (drawn.featureScale[c] / 255) + 1e-4, `${off} in channel ${c}`)
        }
      }
      node++
    }
    assert.equal(node, density.length)
    assert.ok(seen > node / 2)
  })
}

for (const name of NAMES) {
  test(`${name}: without its finest level it is worth on every second voxel what it is worth there with zeros in that level`, () => {
    const bytes = bytesOf(name)
    /** @type {any} */
    let coarse
    decode(bytes, { onCoarse: (field) => (coarse = field) })
    assert.equal(Boolean(coarse), pyramidOf(bytes).levels.length > 1)
    if (!coarse) return
    const finest = pyramidOf(bytes).sections.find((section) => section.name === 'LEV0')?.bytes ?? 0
    const few = makeTextures(coarse, 2048)
    const whole = makeTextures(pyramidOf(bytes.slice(0, bytes.length - finest), { truncated: true }), 2048)
    assert.deepEqual(few.cells, whole.cells.map((n) => n / 2))
    assert.ok(few.isCoarse && !whole.isCoarse)
    const [X, Y, Z] = coarse.shape
    let seen = 0
    for (let x = 0; 2 * x < whole.shape[0] && x < X; x++) {
      for (let y = 0; 2 * y < whole.shape[1] && y < Y; y++) {
        for (let z = 0; 2 * z < whole.shape[2] && z < Z; z++) {
          const found = texelAt(whole, [2 * x, 2 * y, 2 * z])
          const other = texelAt(few, [x, y, z])
          if (!found?.share || !other) continue
          seen++
          const step = (few.densityRange[0] + whole.densityRange[0]) / 255 / 256
          assert.ok(Math.abs(found.density - other.density) <= 0.51 * step + 1e-5 * (1 + Math.abs(found.density)))
          for (let c = 0; c < coarse.channels; c++) {
            const off = Math.abs(found.worth[c] - other.worth[c])
            assert.ok(off <= 0.51 * ((few.featureScale[c] + whole.featureScale[c]) / 255) + 1e-4, `${off} in channel ${c}`)
          }
        }
      }
    }
    assert.ok(seen)
  })
}

test('a file that is cut off after its coarsest level is read with zeros if that is asked for, and refused otherwise', () => {
  const whole = bytesOf('basis')
  const { levels, sections } = pyramidOf(whole)
  const ends = new Map()
  let end = 32 + 32 * sections.length
  for (const { name, bytes } of sections) ends.set(name, (end += bytes))
  const lengths = [...ends.values()].flatMap((stop) => [stop - 1, stop]).concat(Array.from({ length: 300 }, (_, i) => (i * 101) % whole.length))
  for (const length of lengths.filter((n) => n < whole.length)) {
    const cut = whole.slice(0, length)
    const refused = errorOf(cut)
    assert.ok(refused)
    if (length < ends.get('LEV3')) {
      assert.deepEqual(errorOf(cut, { truncated: true }), refused)
      continue
    }
    const found = pyramidOf(cut, { truncated: true }).levels
    for (const [i, level] of found.entries()) {
      const isWhole = ends.get(`LEV${levels.length - 1 - i}`) <= length
      assert.deepEqual(level.coefficients, isWhole ? levels[i].coefficients : new Int16Array(levels[i].coefficients.length))
    }
  }
  assert.deepEqual(pyramidOf(whole, { truncated: true }).levels, levels)
})

test('every flipped bit is refused', () => {
  const whole = bytesOf('deepest')
  for (let at = 0; at < whole.length; at++) {
    const flipped = whole.slice()
    flipped[at] ^= 1 << (at % 8)
    assert.ok(errorOf(flipped))
    assert.ok(errorOf(flipped, { truncated: true }))
  }
})

test('any minor version is read, another major one is not', () => {
  const bytes = bytesOf('flat')
  const view = new DataView(bytes.buffer)
  const seal = () => view.setUint32(28, crc32(bytes.subarray(0, 28), bytes.subarray(32, 32 + 32 * view.getUint32(12, true))), true)
  view.setUint16(10, 7, true)
  seal()
  assert.equal(errorOf(bytes), undefined)
  view.setUint16(8, 4, true)
  seal()
  assert.match(errorOf(bytes)?.reason ?? '', /version 4\.7 is not supported/)
})
