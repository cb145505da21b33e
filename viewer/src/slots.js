/**
 * Who of the viewers of a page has a context of the graphics: browsers give a page 8 to 16, and take the oldest away for one more.
 *
 * A viewer that has drawn its picture, or is out of sight, gives its context to the next that waits, and keeps a still of the picture.
 */

/** Contexts of a page's viewers at most. */
export const MOST = 6

/**
 * @typedef {object} Holder
 * @property {() => number} need how much it wants to keep its context: 0 out of sight, 1 its picture is drawn, 2 it is drawing, 3 it is moved
 * @property {() => void} grant here is one
 * @property {() => void} release give it back, at once
 */

/** In the order in which they were used, the longest ago first. @type {Set<Holder>} */
const holders = new Set()
/** @type {Set<Holder>} */
const waiting = new Set()

/** Who gives way to a need: who needs it least, of these the one that used it longest ago. @param {number} need */
function loser(need) {
  const found = [...holders].reduce((least, holder) => (holder.need() < least.need() ? holder : least))
  return found.need() < need ? found : undefined
}

/**
 * Ask for a context, or say that it is used.
 *
 * @param {Holder} holder gets it now or later
 */
export function claim(holder) {
  if (holders.delete(holder)) {
    holders.add(holder)
    return
  }
  const other = holders.size < MOST ? undefined : loser(holder.need())
  if (holders.size >= MOST && !other) {
    waiting.add(holder)
    return
  }
  waiting.delete(holder)
  if (other) {
    holders.delete(other)
    other.release()
  }
  holders.add(holder)
  holder.grant()
}

/** Give it back, or wait no longer. @param {Holder} holder */
export function giveBack(holder) {
  waiting.delete(holder)
  if (!holders.delete(holder)) return
  holder.release()
  settle()
}

/** A holder needs its context less than before: those that wait may have it. */
export function settle() {
  for (const holder of waiting) claim(holder)
}
