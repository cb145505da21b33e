/** The element's inside: what is on the page. */

import { isHarmonic } from './decode.js'

const KEYS =
  'Drag or arrow keys: turn. Right drag, two fingers or A, D, Q, E: move sideways, up, down. Wheel, pinch, plus, minus: zoom. ' +
  'W, S: forward, back. R: reset.'

export const MARKUP = `
<canvas tabindex="0" role="application" aria-label="3-D scene" aria-describedby="keys"></canvas>
<p id="keys" hidden>${KEYS}</p>
<div class="bar" role="toolbar" aria-label="Viewer">
  <button type="button" data-do="reset" title="Reset the view (R)">Reset</button>
  <select aria-label="Background">
    <option value="">File's background</option>
    <option value="1,1,1">White</option>
    <option value="0.5,0.5,0.5">Grey</option>
    <option value="0,0,0">Black</option>
  </select>
  <select aria-label="Resolution">
    <option value="0">Automatic size</option>
    <option value="1">Full size</option>
    <option value="0.5">Half size</option>
    <option value="0.25">Quarter size</option>
  </select>
  <button type="button" data-do="save" title="Save what is seen as a PNG file">Save picture</button>
  <label class="file">Open<input type="file" accept=".vqrf" aria-label="Open a .vqrf file"></label>
  <button type="button" data-do="facts" aria-expanded="false" aria-controls="facts">About</button>
  <output class="rate" aria-label="Frame rate" aria-live="off"></output>
</div>
<section class="panel" id="facts" aria-label="About the file" hidden><h2></h2><dl></dl><p>${KEYS}</p></section>
<div class="message status" role="status" hidden><p></p></div>
<div class="message alert" role="alert" hidden><p></p></div>
`

/** Units of bytes; MB is 10^6. @param {number} bytes */
function size(bytes) {
  if (bytes < 1000) return `${bytes} B`
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(3)} MB`
}

/** @param {number} n */
const count = (n) => n.toLocaleString('en')

/** What each section holds, for a person. @type {Record<string, string>} */
const SECTIONS = {
  HEAD: 'head',
  META: 'metadata',
  COLR: 'colour network',
  BOOK: 'codebook',
  STEP: 'steps',
  PART: 'partition',
  DENS: 'density',
  CODE: 'codes',
  KEPT: 'kept features',
}

/**
 * A number that a file says of itself, which may be anything.
 *
 * @param {Record<string, unknown> | undefined} metadata
 * @param {string} group
 * @param {string} name
 */
function stated(metadata, group, name) {
  const found = metadata?.[group]
  const value = found && typeof found === 'object' ? /** @type {Record<string, unknown>} */ (found)[name] : undefined
  return typeof value === 'number' ? value : undefined
}

/**
 * The rows of the panel.
 *
 * @param {import('./worker.js').Facts} facts
 * @param {number} shading
 * @param {number} layers
 * @returns {[string, string][]}
 */
export function rowsOf(facts, shading, layers) {
  const psnr = stated(facts.metadata, 'test', 'psnr')
  const ssim = stated(facts.metadata, 'test', 'ssim')
  const loss = stated(facts.metadata, 'fast', 'loss')
  const colour = isHarmonic(shading) ? 'spherical harmonics' : layers ? 'network at each sample' : 'rgb'
  /** @type {[string, string][]} */
  const rows = [['size', size(facts.bytes)]]
  if (psnr !== undefined) rows.push(['PSNR on test views', `${psnr.toFixed(2)} dB`])
  if (loss !== undefined) rows.push(['lost to the exact colours', `${loss.toFixed(2)} dB`])
  if (ssim !== undefined) rows.push(['SSIM on test views', ssim.toFixed(4)])
  rows.push(
    ['voxels', facts.shape.join(' × ')],
    [facts.codebookSize ? 'in the codebook' : 'not empty', count(facts.nCoded)],
  )
  if (facts.codebookSize) rows.push(['kept', count(facts.nKept)], ['codewords', count(facts.codebookSize)])
  rows.push(
    ['colour', colour],
    ['decoded in', `${facts.decodeMs.toFixed(0)} ms`],
  )
  for (const { name, bytes } of facts.sections) rows.push([SECTIONS[name] ?? name.replace('LEV', 'level '), size(bytes)])
  return rows
}
