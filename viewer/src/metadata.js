/**
 * Metadata of a file: JSON in the one spelling that FORMAT.md section 3 allows.
 *
 * `JSON.parse` accepts more than that (blanks, a key twice, other spellings of a number), so what it read is written again, and has to
 * be the text that was there. Safe for untrusted input.
 */

/** Deeper nesting than any metadata needs; bounds the recursion. */
const MAX_DEPTH = 200
/** The most digits of an integer that Python reads. */
const MAX_DIGITS = 4300
/** Texts, and what else is made of digits. */
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*/g

/**
 * Write a number as Python 3 does: like JavaScript, but with an exponent below 1e-4 and from 1e16 on.
 *
 * @param {number} value
 */
function floatLikePython(value) {
  const [mantissa, exponent] = value.toExponential().split('e')
  const power = Number(exponent)
  const plain = Object.is(value, -0) ? '-0' : String(value)
  if (power < 16 && power >= -4) return plain.includes('.') ? plain : `${plain}.0`
  return `${mantissa}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`
}

/** @param {string} spelled a number */
const isSpelledRight = (spelled) =>
  /^-?\d+$/.test(spelled) ? spelled !== '-0' && spelled.replace('-', '').length <= MAX_DIGITS : floatLikePython(Number(spelled)) === spelled

/** Where a key belongs: by code points as in Python, and not by UTF-16 units. @param {string} key */
const rankOf = (key) => Array.from(key, (c) => 1e7 + /** @type {number} */ (c.codePointAt(0))).join()

/** @param {string} value */
const texted = (value) => JSON.stringify(value).replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)

/**
 * @param {any} value in which numbers are texts
 * @param {number} depth
 * @returns {string}
 */
function written(value, depth) {
  if (depth > MAX_DEPTH) throw new RangeError()
  if (typeof value === 'string') return texted(value)
  if (Array.isArray(value)) return `[${value.map((item) => written(item, depth + 1))}]`
  if (!value || value === true) return String(value)
  const keys = Object.keys(value).map((key) => [rankOf(key), key])
  return `{${keys.sort(([a], [b]) => (a < b ? -1 : 1)).map(([, key]) => `${texted(key)}:${written(value[key], depth + 1)}`)}}`
}

/**
 * Read metadata.
 *
 * @param {Uint8Array} bytes
 * @returns {Record<string, unknown> | undefined} nothing if it is not a canonical JSON object with something in it
 */
export function parseMetadata(bytes) {
  const text = new TextDecoder('latin1').decode(bytes)
  try {
    const found = JSON.parse(text)
    // Texts keep the spelling of numbers, which tells 1 from 1.0, and which no 53 bits hold.
    const marked = text.replace(TOKEN, (token) => (token[0] === '"' ? token : isSpelledRight(token) ? `"${token}"` : ' '))
    if (/^{"/.test(text) && written(JSON.parse(marked), 0) === marked) return found
  } catch {
    // It is no JSON, or too deep.
  }
  return undefined
}
