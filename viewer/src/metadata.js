/**
 * Metadata of a file: JSON in the one spelling that FORMAT.md section 3 allows.
 *
 * `JSON.parse` accepts more than that (blanks, a key twice, other spellings of a number), so the text is read here character by
 * character. Safe for untrusted input.
 */

/** Deeper nesting than any metadata needs; bounds the recursion. */
const MAX_DEPTH = 200
/** The most digits of an integer that Python reads. */
const MAX_DIGITS = 4300

const STRING = /"((?:[ !#-[\]-~]|\\["\\bfnrt]|\\u[0-9a-f]{4})*)"/y
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?(e[+-][0-9]+)?/y

/** Why a text is not canonical stays inside: the reader of a file answers with one reason for all. */
class NotCanonical extends Error {}

/**
 * Write a number as Python 3 does: like JavaScript, but with an exponent below 1e-4 and from 1e16 on.
 *
 * @param {number} value finite
 */
function floatLikePython(value) {
  const [mantissa, exponent] = value.toExponential().split('e')
  const power = Number(exponent)
  if (power >= 16 || power < -4) {
    const size = Math.abs(power)
    return `${mantissa}e${power < 0 ? '-' : '+'}${size < 10 ? '0' : ''}${size}`
  }
  const plain = Object.is(value, -0) ? '-0' : String(value)
  if (!plain.includes('e')) return plain.includes('.') ? plain : `${plain}.0`
  // JavaScript writes 1e-5 and below with an exponent, which the branch above took.
  throw new NotCanonical()
}

/**
 * Compare as Python does, by code points and not by UTF-16 units.
 *
 * @param {string} a
 * @param {string} b
 */
function isBefore(a, b) {
  const left = Array.from(a, (c) => /** @type {number} */ (c.codePointAt(0)))
  const right = Array.from(b, (c) => /** @type {number} */ (c.codePointAt(0)))
  for (let i = 0; i < left.length && i < right.length; i++) if (left[i] !== right[i]) return left[i] < right[i]
  return left.length < right.length
}

class Reader {
  /** @param {string} text */
  constructor(text) {
    this.text = text
    this.at = 0
  }

  /** @param {RegExp} pattern sticky */
  match(pattern) {
    pattern.lastIndex = this.at
    const found = pattern.exec(this.text)
    if (!found) throw new NotCanonical()
    this.at = pattern.lastIndex
    return found
  }

  /** @param {string} word */
  take(word) {
    if (!this.text.startsWith(word, this.at)) return false
    this.at += word.length
    return true
  }

  /** @param {string} word */
  expect(word) {
    if (!this.take(word)) throw new NotCanonical()
  }

  /** @returns {string} */
  string() {
    const [spelled, inner] = this.match(STRING)
    for (const [, hex] of inner.matchAll(/\\(?:["\\bfnrt]|u([0-9a-f]{4}))/g)) {
      if (hex === undefined) continue
      const unit = Number.parseInt(hex, 16)
      // What has a shorter spelling is written by it.
      if ((unit >= 0x20 && unit < 0x7f) || [8, 9, 10, 12, 13].includes(unit)) throw new NotCanonical()
    }
    return JSON.parse(spelled)
  }

  /** @returns {number} */
  number() {
    const [spelled, fraction, exponent] = this.match(NUMBER)
    const value = Number(spelled)
    if (fraction === undefined && exponent === undefined) {
      if (spelled === '-0' || spelled.replace('-', '').length > MAX_DIGITS) throw new NotCanonical()
    } else if (!Number.isFinite(value) || floatLikePython(value) !== spelled) {
      throw new NotCanonical()
    }
    return value
  }

  /**
   * @param {number} depth
   * @returns {unknown}
   */
  value(depth) {
    if (depth > MAX_DEPTH) throw new NotCanonical()
    const next = this.text[this.at]
    if (next === '{') return this.object(depth)
    if (next === '[') return this.list(depth)
    if (next === '"') return this.string()
    if (this.take('true')) return true
    if (this.take('false')) return false
    if (this.take('null')) return null
    return this.number()
  }

  /** @param {number} depth */
  object(depth) {
    this.expect('{')
    /** @type {Map<string, unknown>} */
    const entries = new Map()
    /** @type {string | undefined} */
    let last
    if (this.take('}')) return Object.fromEntries(entries)
    do {
      const key = this.string()
      if (last !== undefined && !isBefore(last, key)) throw new NotCanonical()
      last = key
      this.expect(':')
      entries.set(key, this.value(depth + 1))
    } while (this.take(','))
    this.expect('}')
    return Object.fromEntries(entries)
  }

  /** @param {number} depth */
  list(depth) {
    this.expect('[')
    /** @type {unknown[]} */
    const items = []
    if (this.take(']')) return items
    do items.push(this.value(depth + 1))
    while (this.take(','))
    this.expect(']')
    return items
  }
}

/**
 * Read metadata.
 *
 * @param {Uint8Array} bytes
 * @returns {Record<string, unknown> | undefined} nothing if it is not a canonical JSON object with something in it
 */
export function parseMetadata(bytes) {
  const reader = new Reader(new TextDecoder('latin1').decode(bytes))
  try {
    const found = reader.object(0)
    return reader.at === bytes.length && Object.keys(found).length > 0 ? found : undefined
  } catch (error) {
    if (error instanceof NotCanonical) return undefined
    throw error
  }
}
