/**
 * In which sizes and in which pieces a picture is drawn. Sides are in pixels, shares are of a whole picture's sides.
 *
 * A picture at rest climbs a ladder: the whole of it at an eighth, a quarter, a half and all of its size, each complete before the
 * next begins; of a coarse field first at a sixteenth. Within a size, what is near the middle is drawn first.
 */

/** Shares of the sides, coarse to fine. */
export const LADDER = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
/** Sizes of the moving picture: so many to one halving of its side. */
const SIZES_PER_HALVING = 4
/** A moving picture grows by two sizes or not at all, so that it does not flicker between two. */
const GROWTH = 2 ** (2 / SIZES_PER_HALVING)
/** A moving picture has at least so many pixels, 160x100, where that leaves it at least so many frames a second. */
export const LEAST_MOVING = { pixels: 16000, framesPerSecond: 10 }
/** Sides of a piece. */
const SIDES = { least: 16, most: 512 }

/**
 * @typedef {object} Piece rectangle of a picture, rows counted from below
 * @property {number} left
 * @property {number} right
 * @property {number} from
 * @property {number} to
 */

/**
 * The next share after one that is shown.
 *
 * @param {number} shown 0 if nothing is
 */
export function nextShare(shown) {
  return LADDER.find((share) => share > shown * 1.1) ?? 1
}

/**
 * The share of a moving picture.
 *
 * @param {number} pixels that can be drawn in a frame of `frameMs`
 * @param {number} frameMs
 * @param {number} area pixels of the whole picture
 * @param {number} last share, 0 if there is none
 */
export function movingShare(pixels, frameMs, area, last) {
  const patient = (pixels * 1000) / (frameMs * LEAST_MOVING.framesPerSecond)
  const wanted = Math.sqrt(Math.max(pixels, Math.min(patient, LEAST_MOVING.pixels)) / area)
  if (wanted >= 1) return 1
  const share = 2 ** (Math.floor(Math.log2(wanted) * SIZES_PER_HALVING) / SIZES_PER_HALVING)
  return share > last && wanted < last * GROWTH ? last : share
}

/**
 * A picture in pieces, those near its middle first.
 *
 * @param {number} width
 * @param {number} height
 * @param {number} pixels that a frame draws: some pieces make a frame
 * @returns {Piece[]}
 */
export function piecesOf(width, height, pixels) {
  const side = Math.min(SIDES.most, Math.max(SIDES.least, 2 ** Math.round(Math.log2(Math.sqrt(pixels / 3)))))
  const cut = (/** @type {number} */ length) => {
    const n = Math.ceil(length / side)
    return Array.from({ length: n }, (_, i) => [Math.round((i * length) / n), Math.round(((i + 1) * length) / n)])
  }
  const columns = cut(width)
  const away = (/** @type {Piece} */ { left, right, from, to }) => Math.hypot(left + right - width, from + to - height)
  const pieces = cut(height).flatMap(([from, to]) => columns.map(([left, right]) => ({ left, right, from, to })))
  return pieces.sort((a, b) => away(a) - away(b))
}

/** @param {Piece} piece its pixels */
export const areaOf = ({ left, right, from, to }) => (right - left) * (to - from)
