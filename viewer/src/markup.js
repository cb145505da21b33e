/** The element's inside: what is on the page, and how it looks. */

export const STYLE = `
:host { display: block; position: relative; min-height: 12rem; overflow: hidden; background: #fff; color: #1b1f24;
  font: 14px/1.45 system-ui, sans-serif; }
:host([hidden]) { display: none; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; display: block; touch-action: none; cursor: grab; }
canvas:active { cursor: grabbing; }
canvas:focus-visible { outline: 3px solid #1f6feb; outline-offset: -3px; }
[hidden] { display: none !important; }
.bar { position: absolute; left: 8px; right: 8px; bottom: 8px; display: flex; flex-wrap: wrap; gap: 6px; align-items: center;
  pointer-events: none; }
.bar > *, .panel { background: rgb(255 255 255 / 0.92); border-radius: 8px; box-shadow: 0 1px 4px rgb(0 0 0 / 0.22);
  pointer-events: auto; }
button, select, label.file { font: inherit; color: inherit; border: 0; padding: 6px 10px; min-height: 34px; box-sizing: border-box;
  cursor: pointer; }
button:hover, select:hover, label.file:hover { background: #fff; }
button:focus-visible, select:focus-visible, label.file:focus-within { outline: 3px solid #1f6feb; }
label.file { display: inline-flex; align-items: center; }
label.file input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.rate { margin-left: auto; padding: 6px 10px; font-variant-numeric: tabular-nums; }
.panel { position: absolute; top: 8px; right: 8px; padding: 10px 14px; max-width: min(22rem, calc(100% - 44px)); overflow: auto;
  max-height: calc(100% - 84px); box-sizing: border-box; }
.panel h2 { font-size: 1em; margin: 0 0 6px; overflow-wrap: anywhere; }
.panel dl { display: grid; grid-template-columns: auto auto; gap: 1px 14px; margin: 0 0 8px; }
.panel dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
.panel p { margin: 0; color: #57606a; }
.message { position: absolute; inset: 0; display: grid; place-items: center; padding: 24px; pointer-events: none; }
.message p { background: #fff; border-radius: 8px; padding: 14px 18px; margin: 0; max-width: 34rem; overflow-wrap: anywhere;
  box-shadow: 0 1px 8px rgb(0 0 0 / 0.3); }
.message[role=alert] p { border-left: 4px solid #cf222e; }
:host(.over)::after { content: ""; position: absolute; inset: 6px; border: 3px dashed #1f6feb; border-radius: 10px;
  pointer-events: none; }
@media (prefers-color-scheme: dark) {
  :host { color: #e6edf3; }
  .bar > *, .panel, .message p { background: rgb(32 36 42 / 0.92); color: #e6edf3; }
  button:hover, select:hover, label.file:hover { background: #30363d; }
  .panel p { color: #9da7b3; }
  option { background: #20242a; color: #e6edf3; }
}
@media (max-width: 560px) {
  .rate { display: none; }
  select { max-width: 8rem; }
  button, select, label.file { padding: 6px 8px; font-size: 13px; }
}
`

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
  const colour = shading ? 'spherical harmonics' : layers ? 'network at each sample' : 'rgb'
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
