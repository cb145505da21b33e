/** The element's inside: what is on the page, and the words in it. */

/** Pictures of 24x24 for buttons. @type {Record<string, string>} */
const ICONS = {
  reset: '<path d="M4 11 12 4l8 7M6 10v10h12V10"/>',
  play: '<path d="M8 5v14l11-7z" fill="currentColor"/>',
  pause: '<path d="M8 5v14M16 5v14" stroke-width="3"/>',
  share: '<path d="M12 15V3M8 7l4-4 4 4M5 12v8h14v-8"/>',
  fly: '<path d="M3 11 21 3l-6 18-4-7zM11 14 21 3"/>',
  full: '<path d="M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5"/>',
  facts: '<circle cx="12" cy="12" r="9"/><path d="M12 11v6M12 7v.5"/>',
  help: '<circle cx="12" cy="12" r="9"/><path d="M9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 16.5v.5"/>',
  close: '<path d="M6 6l12 12M18 6L6 18"/>',
}

/** @param {string} name */
export const icon = (name) =>
  `<svg viewBox="0 0 24 24" width="22" height="22" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true">${ICONS[name]}</svg>`

/** @param {string} name @param {string} label @param {string} [more] attributes */
const button = (name, label, more = '') =>
  `<button type="button" data-do="${name}" aria-label="${label}" title="${label}" ${more}>${icon(name)}</button>`

/** What to do with a mouse and keys, and with fingers: each a gesture and what it does. @type {[string, string][]} */
export const MOUSE = [
  ['Drag, arrow keys', 'turn'],
  ['Wheel, + and -', 'zoom'],
  ['Right drag, W A S D Q E', 'move'],
  ['Double click', 'focus'],
  ['R', 'first view'],
  ['Space', 'play, pause'],
  ['V', 'fly'],
  ['F', 'full screen'],
]
/** @type {[string, string][]} */
export const FINGERS = [
  ['One finger', 'turn'],
  ['Two fingers', 'zoom and move'],
  ['Double tap', 'focus'],
  ['Paper plane', 'fly'],
]
/** What flying is, when it begins. */
export const FLIGHT = 'W A S D Q E: fly. Drag or arrow keys: look around. Esc: back.'
export const FLIGHT_OF_FINGERS = 'One finger: look around. Two fingers: fly.'

/** @param {[string, string][]} rows */
const listed = (rows) => rows.map(([gesture, does]) => `${gesture}: ${does}.`).join(' ')

/** How it looks, beside what it is about: so it packs better. */
export const STYLE = STYLE_SOURCE

export const MARKUP = `<div class="all">
<div class="surface" tabindex="0" role="application" aria-label="3-D scene" aria-describedby="keys"></div>
<slot name="poster"><img class="poster" alt="" hidden></slot>
<p id="keys" hidden>${listed(MOUSE)}</p>
<div class="progress" hidden></div>
<div class="bar" role="toolbar" aria-label="Viewer">
  ${button('reset', 'Reset the view')}${button('play', 'Turn by itself', 'aria-pressed="false"')}${button('fly', 'Fly', 'aria-pressed="false"')}${button('share', 'Copy a link to this view', 'hidden')}${button('full', 'Full screen')}${button('help', 'Help', 'aria-expanded="false" aria-controls="help"')}${button('facts', 'About', 'aria-expanded="false" aria-controls="facts"')}
</div>
<section class="panel" id="facts" aria-label="About the file" hidden>
  <div class="head"><h2></h2>${button('close', 'Close')}</div>
  <p class="words"></p>
  <dl class="people"></dl>
  <div class="row">
    <label>Background <select aria-label="Background">
      <option value="">As in the file</option>
      <option value="#ffffff">White</option>
      <option value="#000000">Black</option>
    </select></label>
  </div>
  <div class="row">
    <button type="button" class="text" data-do="save">Save picture</button>
    <label class="text file">Open a file<input type="file" accept=".vqrf" aria-label="Open a .vqrf file"></label>
  </div>
  <details><summary>For engineers</summary><dl class="engineers"></dl></details>
</section>
<section class="panel" id="help" aria-label="Help" hidden>
  <div class="head"><h2>Help</h2>${button('close', 'Close')}</div>
  <dl class="keys"></dl>
</section>
<div class="message status" role="status" hidden><p></p></div>
<div class="message alert" role="alert" hidden><p></p>${button('close', 'Close')}</div></div>`
