/** What a file says of itself is bounded, and a part that is wrong does not count. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { aboutOf, earlyPoster } from '../src/about.js'

const said = { title: 'A chair', author: 'Ä. 椅子', licence: 'CC0', description: '', up: [0, 1, 0], pitch: [0, 80], distance: [1, 2] }
const view = { position: [1, 2, 3], target: [0, 0, 0] }

/** @param {number} width @param {number} height @param {number} length */
function poster(width, height, length = 40) {
  const bytes = Buffer.alloc(length)
  bytes.write('RIFF', 0, 'latin1')
  bytes.write('WEBPVP8 ', 8, 'latin1')
  bytes.write('\x9d\x01\x2a', 23, 'latin1')
  bytes.writeUInt16LE(width, 26)
  bytes.writeUInt16LE(height, 28)
  return bytes.toString('base64')
}

test('what is said comes out, and nothing where nothing is said', () => {
  const found = aboutOf({ about: { ...said, view, poster: poster(8, 512) } })
  assert.equal(found.title, 'A chair')
  assert.equal(found.author, 'Ä. 椅子')
  assert.deepEqual(found.view, view)
  assert.deepEqual(found.pitch, [0, 80])
  assert.equal(found.poster, `data:image/webp;base64,${poster(8, 512)}`)
  for (const nothing of [undefined, null, 5, [], {}, { about: [] }, { about: 'x' }]) {
    assert.deepEqual(Object.values(aboutOf(nothing)).filter(Boolean), [])
  }
})

test('up is what training says where the file says nothing else', () => {
  assert.deepEqual(aboutOf({ training: { up: [0, 1, 0] } }).up, [0, 1, 0])
  assert.deepEqual(aboutOf({ training: { up: [0, 1, 0] }, about: { up: [1, 0, 0] } }).up, [1, 0, 0])
})

test('a part that is wrong is as if it were not there', () => {
  const wrong = {
    title: ['x'.repeat(301), 'two\nlines', '\u001b[31m', 'a\u202eb', '\ud800', 5],
    up: [[0, 0, 0], [0, 0], [0, 0, '1'], [0, 0, null]],
    view: [{ position: [0, 0, 0], target: [0, 0, 0] }, { position: [0, 0, 1] }, [1]],
    distance: [[0, 1], [2, 1], [1, 2 ** 41]],
    pitch: [[-91, 0], [1, 0]],
    yaw: [[-181, 0], [1, 2], [0, 180.5], [0]],
    poster: ['!', poster(513, 8), poster(8, 0), poster(8, 8, 16385), Buffer.from(poster(8, 8), 'base64').subarray(0, 29).toString('base64'), Buffer.from('\x89PNG').toString('base64'), 5],
  }
  for (const [name, values] of Object.entries(wrong)) {
    for (const value of values) assert.ok(!aboutOf({ about: { ...said, view, poster: poster(8, 8), [name]: value } })[name], `${name}: ${value}`)
  }
})

/** The first bytes of a file of these sections. @param {[string, Buffer][]} sections */
function file(sections) {
  const head = Buffer.alloc(32)
  head[0] = 0x89
  head.writeUInt32LE(sections.length, 12)
  const rows = sections.map(([name, body]) => {
    const row = Buffer.alloc(32)
    row.write(name, 0, 'latin1')
    row.writeBigUInt64LE(BigInt(body.length), 8)
    return row
  })
  return new Uint8Array(Buffer.concat([head, ...rows, ...sections.map(([, body]) => body)]))
}

test('a poster is read as soon as it is there, from whatever there is', () => {
  const text = JSON.stringify({ aaa: { poster: poster(9, 9) }, about: { poster: poster(8, 8), title: 'A' }, note: '"poster":"no, a text"' })
  const whole = file([['HEAD', Buffer.alloc(116)], ['META', Buffer.from(text)], ['COLR', Buffer.alloc(9)]])
  const end = whole.length - 9 - text.length + text.indexOf(',"title"')
  for (let n = 0; n <= whole.length; n++) {
    assert.equal(earlyPoster(whole.subarray(0, n)), n < end ? undefined : `data:image/webp;base64,${poster(8, 8)}`)
  }
  const texts = ['{"about":', JSON.stringify({ aaa: { poster: poster(8, 8) }, about: { title: 'A' } }), '{"about":{"poster":"!"}}', JSON.stringify({ title: `"poster":"${poster(8, 8)}"` }), '['.repeat(1e5)]
  for (const bad of texts) assert.equal(earlyPoster(file([['META', Buffer.from(bad)]])), undefined)
  assert.equal(earlyPoster(file([['HEAD', Buffer.alloc(116)]])), undefined)
  assert.equal(earlyPoster(new Uint8Array(500).fill(255)), undefined)
})
