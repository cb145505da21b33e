/** What cannot be drawn: the limits of FORMAT.md section 2, on fields that decode. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

import { decode } from '../src/decode.js'
import { drawingFault, valuesFault } from '../src/limits.js'
import { makeTextures, TooLarge } from '../src/textures.js'

const VALID = new URL('../../conformance/valid/', import.meta.url)
const files = readdirSync(VALID).filter((name) => name.endsWith('.vqrf'))
const fieldOf = (/** @type {string} */ name) => decode(new Uint8Array(readFileSync(new URL(name, VALID))))

test('every valid file of the conformance files can be drawn', () => {
  for (const name of files) {
    const field = fieldOf(name)
    assert.equal(drawingFault(field), undefined, name)
    assert.equal(valuesFault(makeTextures(field, 256)), undefined, name)
  }
})

test('constants beyond the limits are refused by their name', () => {
  const field = fieldOf('all_coded.vqrf')
  const { lo } = field
  for (const [change, name] of /** @type {[object, string][]} */ ([
    [{ stepWorld: 2e-9 }, 'step_world'],
    [{ stepWorld: 1e-30 }, 'step_world'],
    [{ alphaThreshold: 0 }, 'alpha_threshold'],
    [{ alphaThreshold: 1 }, 'alpha_threshold'],
    [{ interval: 1e-38 }, 'interval'],
    [{ hi: lo.map((x) => x + 1e-30) }, 'bounds'],
    [{ lo: [-1e30, -1e30, -1e30], hi: [1e30, 1e30, 1e30] }, 'bounds'],
    [{ emptyDensity: -3e38 }, 'empty density'],
    [{ layers: [{ out: 4096, in: 4096 }] }, 'network'],
  ])) {
    assert.match(String(drawingFault({ ...field, ...change })), new RegExp(name))
  }
})

test('values that 32 bits do not hold, or sums of them, are refused', () => {
  const drawn = makeTextures(fieldOf('all_coded.vqrf'), 256)
  assert.match(String(valuesFault({ ...drawn, densityRange: [1e31, 0] })), /values/)
  assert.match(String(valuesFault({ ...drawn, featureScale: drawn.featureScale.map(() => 1e35) })), /values/)
  const layers = drawn.layers.map((layer) => ({ ...layer, weight: layer.weight.map(() => 1e20) }))
  if (layers.length > 1) assert.match(String(valuesFault({ ...drawn, layers })), /network/)
})

test('planes and lines of more products than anybody waits for are refused before they are multiplied', () => {
  const field = fieldOf('planes.vqrf')
  assert.throws(() => makeTextures({ ...field, nCoded: 2 ** 30 }, 256), TooLarge)
})

test('a feature that is no number is refused, wherever it stands', () => {
  const field = fieldOf('planes_harmonics.vqrf')
  assert.ok('mix' in field)
  const stackSteps = field.stackSteps.map((steps) => steps.map(() => 1e38))
  assert.match(String(valuesFault(makeTextures({ ...field, stackSteps }, 256))), /values/)
})
