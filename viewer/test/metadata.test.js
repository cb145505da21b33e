/** Which spellings of metadata are the canonical one: those that Python's `json.dumps` writes, keys sorted, without blanks. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { parseMetadata } from '../src/metadata.js'

/** @param {string} text */
const parse = (text) => parseMetadata(new TextEncoder().encode(text))

const CANONICAL = [
  '{"a":1}',
  '{"a":-1,"b":[],"c":{},"d":[1,[2]],"e":true,"f":false,"g":null}',
  '{"a":0.5,"b":1e+16,"c":1e-05,"d":1.5e-07,"e":123456789.125,"f":1e+100,"g":-0.0,"h":5e-324,"i":0.0001}',
  '{"a":1234567890123456789012345678901234567890}',
  '{"\\u00e9":"\\ud83d\\ude00\\n\\t\\"\\\\\\b\\f\\r\\u0000\\u007f/"}',
  '{"\\ud800":"a lone surrogate"}',
  // By code points, an astral key comes after one that UTF-16 units would put behind it.
  '{"\\uffff":1,"\\ud83d\\ude00":2}',
  '{"":0}',
]

for (const text of CANONICAL) {
  test(`${text} is canonical`, () => assert.deepEqual(parse(text), JSON.parse(text)))
}

const OTHERS = [
  '{}',
  '[]',
  '1',
  '',
  '{"a":1} ',
  ' {"a":1}',
  '{"a": 1}',
  '{"a":1,"a":2}',
  '{"b":1,"a":2}',
  '{"\\ud83d\\ude00":2,"\\uffff":1}',
  '{"a":1,}',
  '{"a":01}',
  '{"a":-0}',
  '{"a":1.0e0}',
  '{"a":1.50}',
  '{"a":1e16}',
  '{"a":1E+16}',
  '{"a":10000000000000000.0}',
  '{"a":0.00001}',
  '{"a":1e999}',
  '{"a":NaN}',
  '{"a":Infinity}',
  '{"a":+1}',
  '{"a":.5}',
  '{"a":"\\u0041"}',
  '{"a":"\\u00E9"}',
  '{"a":"\\u000a"}',
  '{"a":"\\/"}',
  '{"a":"\u007f"}',
  '{"a":"é"}',
  "{'a':1}",
  '{"a":tru}',
  '{"a"}',
  '{"a":[1 ]}',
  `{"a":${'['.repeat(5000)}${']'.repeat(5000)}}`,
]

for (const text of OTHERS) test(`${text.slice(0, 60)} is not`, () => assert.equal(parse(text), undefined))
