/** Pictures come in whole sizes, and their pieces tile them. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { areaOf, movingShare, nextShare, piecesOf } from '../src/refine.js'

const FRAME_MS = 28

test('a picture climbs by sixteenths, eighths, quarters and halves to the whole, from wherever the movement left it', () => {
  const climb = (shown) => {
    const seen = []
    for (let share = shown; share < 1; seen.push(share)) share = nextShare(share)
    return seen
  }
  assert.deepEqual(climb(0), [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])
  assert.deepEqual(climb(1 / 16), [1 / 8, 1 / 4, 1 / 2, 1])
  assert.deepEqual(climb(0.21), [1 / 4, 1 / 2, 1])
  assert.deepEqual(climb(0.97), [1])
})

test('the pieces of a picture cover each of its pixels once, those near the middle first', () => {
  for (const [width, height, pixels] of [[1, 1, 1000], [161, 99, 2304], [1280, 800, 1e6], [45, 700, 100]]) {
    const pieces = piecesOf(width, height, pixels)
    const seen = new Uint8Array(width * height)
    for (const { left, right, from, to } of pieces) {
      for (let y = from; y < to; y++) for (let x = left; x < right; x++) seen[y * width + x]++
    }
    assert.ok(seen.every((times) => times === 1))
    assert.equal(pieces.reduce((sum, piece) => sum + areaOf(piece), 0), width * height)
    const away = pieces.map(({ left, right, from, to }) => Math.hypot(left + right - width, from + to - height))
    assert.deepEqual(away, away.toSorted((a, b) => a - b))
  }
})

test('a moving picture has the pixels of a frame, but no fewer than 160x100 while those come ten times a second', () => {
  const area = 1280 * 800
  const pixels = (n) => movingShare(n, FRAME_MS, area, 0) ** 2 * area
  assert.equal(movingShare(2 * area, FRAME_MS, area, 0), 1)
  assert.ok(pixels(100_000) <= 100_000 && pixels(100_000) > 70_000)
  assert.ok(pixels(8_000) > 11_000 && pixels(8_000) <= 16_000)
  assert.ok(pixels(1_000) <= 3_600)
})

test('a moving picture does not flicker between two sizes', () => {
  const area = 1280 * 800
  const last = movingShare(100_000, FRAME_MS, area, 0)
  assert.equal(movingShare(150_000, FRAME_MS, area, last), last)
  assert.ok(movingShare(300_000, FRAME_MS, area, last) > last)
  assert.ok(movingShare(60_000, FRAME_MS, area, last) < last)
})
