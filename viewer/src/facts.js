/** What there is to say about a file: for programs, for people, for engineers. */

import { isHarmonic } from './decode.js'

/**
 * What `viewer.facts` is: names that stay.
 *
 * @typedef {object} Facts
 * @property {string} name of the file
 * @property {number} bytes
 * @property {string} title empty where the file says nothing, as the next three
 * @property {string} author
 * @property {string} licence
 * @property {string} description
 * @property {[number, number, number]} shape voxels along X, Y, Z
 * @property {number} channels
 * @property {number} voxels that are not empty
 * @property {'network' | 'harmonics' | 'rgb'} colour how it is made
 * @property {number | undefined} psnr on test views, in dB, as the file says
 * @property {number | undefined} ssim
 * @property {{ name: string, bytes: number }[]} sections
 * @property {Record<string, unknown>} metadata all that the file says of itself
 * @property {number} decodeMs
 * @property {number} texturesMs
 */

/** Units of bytes; MB is 10^6. @param {number} bytes */
function size(bytes) {
  if (bytes < 1000) return `${bytes} B`
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(3)} MB`
}

/**
 * A score that a file says of itself, which may be anything.
 *
 * @param {Record<string, unknown>} metadata
 * @param {string} name
 */
function scored({ test }, name) {
  const value = test && typeof test === 'object' ? /** @type {Record<string, unknown>} */ (test)[name] : undefined
  return typeof value === 'number' ? value : undefined
}

/**
 * @param {string} name
 * @param {import('./worker.js').Loaded} loaded
 * @param {import('./about.js').About} about
 * @returns {Facts}
 */
export function factsOf(name, { drawn, said }, { title, author, licence, description }) {
  const { metadata = {} } = said
  // In quotes: what has none may be renamed in the bundle.
  return {
    'name': name,
    'bytes': said.bytes,
    'title': title,
    'author': author,
    'licence': licence,
    'description': description,
    'shape': /** @type {[number, number, number]} */ (said.shape),
    'channels': said.channels,
    'voxels': said.nCoded + said.nKept,
    'colour': isHarmonic(drawn.shading) ? 'harmonics' : drawn.layers.length ? 'network' : 'rgb',
    'psnr': scored(metadata, 'psnr'),
    'ssim': scored(metadata, 'ssim'),
    'sections': said.sections,
    'metadata': metadata,
    'decodeMs': said.decodeMs,
    'texturesMs': said.texturesMs,
  }
}

/** @param {Facts} facts @returns {[string, string][]} */
export function rowsForPeople({ author, licence, bytes, psnr }) {
  /** @type {[string, string][]} */
  const rows = []
  if (author) rows.push(['Author', author])
  if (licence) rows.push(['Licence', licence])
  rows.push(['Size', size(bytes)])
  if (psnr !== undefined) rows.push(['PSNR on test photos', `${psnr.toFixed(2)} dB`])
  return rows
}

/**
 * @param {Facts} facts
 * @param {import('./worker.js').Loaded} loaded
 * @returns {[string, string][]}
 */
export function rowsForEngineers(facts, { said }) {
  const { name, ssim, shape, colour, sections } = facts
  const count = (/** @type {number} */ n) => n.toLocaleString('en')
  /** @type {[string, string][]} */
  const rows = [['file', name]]
  if (ssim !== undefined) rows.push(['SSIM', ssim.toFixed(4)])
  rows.push(['voxels', shape.join(' × ')], [said.codebookSize ? 'in the codebook' : 'not empty', count(said.nCoded)])
  if (said.codebookSize) rows.push(['kept', count(said.nKept)], ['codewords', count(said.codebookSize)])
  rows.push(['colour', colour])
  for (const { name: section, bytes } of sections) rows.push([section, size(bytes)])
  return rows
}
