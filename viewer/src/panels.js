/** What a viewer says and offers around its picture: words, progress, buttons that fade, panels. */

import { rowsForEngineers, rowsForPeople } from './facts.js'
import { FINGERS, icon, MOUSE } from './markup.js'

/** Milliseconds without a pointer after which the buttons fade. */
const FADE_MS = 3000

/** @param {string} query */
export const prefers = (query) => matchMedia(`(${query})`).matches

/** Things that are done later, each once. */
export class Timers {
  constructor() {
    /** @type {Map<string, number>} */
    this.running = new Map()
  }

  /**
   * Do something later, or, without anything to do, not any more.
   *
   * @param {string} name of what is then done only once
   * @param {number} [ms]
   * @param {() => void} [what]
   */
  set(name, ms, what) {
    clearTimeout(this.running.get(name))
    this.running.delete(name)
    if (!what) return
    const run = () => {
      this.running.delete(name)
      what()
    }
    this.running.set(name, window.setTimeout(run, ms))
  }

  stop() {
    for (const timer of this.running.values()) clearTimeout(timer)
    this.running.clear()
  }
}

export class Panels {
  /** @param {ShadowRoot} root with the markup in it */
  constructor(root) {
    this.root = root
    this.timers = new Timers()
  }

  /**
   * An element of the markup, which has it for sure.
   *
   * @template {HTMLElement} [T=HTMLElement]
   * @param {string} selector
   * @returns {T}
   */
  part(selector) {
    return /** @type {any} */ (this.root.querySelector(selector))
  }

  /** @param {string} message nothing to take it away, and an error with it @param {number} [ms] after which it goes */
  say(message, ms) {
    this.put('.status', message)
    if (!ms) this.put('.alert', '')
    this.timers.set('word', ms, ms ? () => this.put('.status', '') : undefined)
  }

  /** @param {string} message what went wrong */
  warn(message) {
    this.say('')
    this.part('.progress').hidden = true
    this.put('.alert', message)
  }

  /** @param {string} selector of a message @param {string} text */
  put(selector, text) {
    const box = this.part(selector)
    box.hidden = !text
    box.children[0].textContent = text
  }

  get isWarning() {
    return !this.part('.alert').hidden
  }

  /** @param {number} share of all that there is to do */
  advance(share) {
    const line = this.part('.progress')
    line.hidden = share >= 1
    line.style.width = `${100 * share}%`
  }

  /** @param {string | undefined} source of a picture that is shown before the scene */
  showPoster(source) {
    const image = /** @type {HTMLImageElement} */ (this.part('.poster'))
    image.hidden = !source
    if (source) image.src = source
  }

  /** @param {boolean} isSeen whether the scene is, so that no poster need be */
  setSeen(isSeen) {
    this.part('.all').classList.toggle('seen', isSeen)
  }

  /** @param {boolean} isPlaying whether the scene turns by itself */
  setPlaying(isPlaying) {
    const play = this.press('play', isPlaying)
    if (play) play.innerHTML = icon(isPlaying ? 'pause' : 'play')
  }

  /** @param {string} name of a button @param {boolean} isPressed @returns {HTMLElement | undefined} nothing if it was like that before */
  press(name, isPressed) {
    const button = this.part(`[data-do=${name}]`)
    if (button.ariaPressed === String(isPressed)) return undefined
    button.ariaPressed = String(isPressed)
    return button
  }

  /** Show the buttons, and let them fade when nobody moves. */
  showBar() {
    const bar = this.part('.bar')
    bar.classList.remove('faded')
    this.timers.set('fade', FADE_MS, () => bar.classList.add('faded'))
  }

  /**
   * @param {import('./facts.js').Facts} facts
   * @param {import('./worker.js').Loaded} loaded
   */
  describe(facts, loaded) {
    this.part('h2').textContent = facts.title || facts.name
    const words = this.part('.words')
    words.textContent = facts.description
    words.hidden = !facts.description
    this.list('.people', rowsForPeople(facts))
    this.list('.engineers', rowsForEngineers(facts, loaded))
  }

  /**
   * @param {string} selector of the list
   * @param {[string, string][]} rows
   */
  list(selector, rows) {
    this.part(selector).replaceChildren(
      ...rows.flatMap(([term, value]) => [
        Object.assign(document.createElement('dt'), { textContent: term }),
        Object.assign(document.createElement('dd'), { textContent: value }),
      ]),
    )
  }

  /** The panel that is open. */
  get opened() {
    return this.root.querySelector('.panel:not([hidden])')
  }

  /** Open a panel, or close it. @param {string} id */
  toggle(id) {
    if (id === 'help') this.list('.keys', prefers('pointer: coarse') ? FINGERS : MOUSE)
    const before = this.opened
    for (const name of ['facts', 'help']) {
      const panel = this.part(`#${name}`)
      const button = this.part(`[data-do=${name}]`)
      const isOpen = name === id && panel !== before
      if (panel.contains(this.root.activeElement)) button.focus()
      panel.hidden = !isOpen
      button.setAttribute('aria-expanded', String(isOpen))
      if (isOpen) panel.querySelector('button')?.focus({ preventScroll: true })
    }
  }

  /** Close what is open, a panel or else an error. @returns {boolean} whether anything was */
  close() {
    const { opened } = this
    if (opened) this.toggle(opened.id)
    else if (this.isWarning) this.say('')
    else return false
    return true
  }
}
