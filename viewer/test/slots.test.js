/** Graphics go round: never more holders than there may be, and everybody who needs them gets them. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { claim, giveBack, MOST, settle } from '../src/slots.js'

class Viewer {
  constructor(need = 2) {
    this.wants = need
    this.has = false
    this.drawn = 0
  }

  need() {
    return this.wants
  }

  grant() {
    assert.ok(!this.has)
    this.has = true
    this.drawn++
  }

  release() {
    assert.ok(this.has)
    this.has = false
  }
}

test('24 viewers draw their pictures one after the other with as many contexts as there may be', () => {
  const viewers = Array.from({ length: 24 }, () => new Viewer())
  for (const viewer of viewers) claim(viewer)
  for (let turn = 0; turn < 24; turn++) {
    const holders = viewers.filter(({ has }) => has)
    assert.ok(holders.length <= MOST)
    const busy = holders.find(({ wants }) => wants === 2)
    if (!busy) break
    busy.wants = 1
    settle()
  }
  assert.ok(viewers.every(({ drawn }) => drawn === 1))
  // One that is moved gets its graphics back at once, from one that is done.
  const moved = viewers.find(({ has }) => !has)
  moved.wants = 3
  claim(moved)
  assert.ok(moved.has && viewers.filter(({ has }) => has).length === MOST)
  for (const viewer of viewers) giveBack(viewer)
  assert.ok(!viewers.some(({ has }) => has))
})

test('who waits gets what is given back, and who has left waits no more', () => {
  const [first, left, next] = [Array.from({ length: MOST }, () => new Viewer(3)), new Viewer(3), new Viewer(3)]
  for (const viewer of [...first, left, next]) claim(viewer)
  giveBack(left)
  assert.ok(!left.has && !next.has)
  giveBack(first[0])
  assert.ok(!left.has && next.has)
  for (const viewer of [...first, next]) giveBack(viewer)
})

test('who used it longest ago gives way', () => {
  const viewers = Array.from({ length: MOST }, () => new Viewer(1))
  for (const viewer of viewers) claim(viewer)
  claim(viewers[0])
  const other = new Viewer(2)
  claim(other)
  assert.ok(viewers[0].has && !viewers[1].has && other.has)
  for (const viewer of [...viewers, other]) giveBack(viewer)
})
