/**
 * `<vqrf-viewer src="scene.vqrf">`: a field to look at.
 *
 * Attributes: `src`, a URL; `label`, what the scene is for those who do not see it; `bare`, no controls; `hash`, the view is kept in
 * the page's address; `refresh`, seconds after which the source is asked for a newer version.
 * Events: `vqrf-load` with the facts of the file; `vqrf-error` with the error.
 */

import { fetchBytes, LoadError, loadInWorker } from './loader.js'
import { MARKUP, rowsOf } from './markup.js'
import { NoGraphics } from './renderer.js'
import { Stage } from './stage.js'

/** The view in the page's address: `#view=...`. */
const VIEW = /(?:^#|&)view=([^&]*)/
/** Milliseconds between two changes of the page's address, which browsers limit. */
const HASH_MS = 400
/** Milliseconds between two updates of the frame rate. */
const RATE_MS = 250

/**
 * The text that an address stands for; as it is, where it stands for none, as `%` alone does.
 *
 * @param {string} text
 */
const decoded = (text) => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** @param {string} source */
const nameOf = (source) => decoded(source.split(/[?#]/)[0].split('/').pop() || source)

export class VqrfViewer extends HTMLElement {
  static observedAttributes = ['src', 'label', 'bare', 'refresh']

  constructor() {
    super()
    const root = this.attachShadow({ mode: 'open' })
    const sheet = new CSSStyleSheet()
    sheet.replaceSync(STYLE_SOURCE)
    root.adoptedStyleSheets = [sheet]
    root.innerHTML = MARKUP
    this.root = root
    this.canvas = this.find('canvas', HTMLCanvasElement)
    /** @type {Stage | undefined} */
    this.stage = undefined
    /** @type {import('./worker.js').Facts | undefined} */
    this.facts = undefined
    this.loading = new AbortController()
    this.lastRate = 0
    /** @type {number | undefined} */
    this.hashTimer = undefined
    /** @type {number | undefined} */
    this.refreshTimer = undefined
    /** @type {string | undefined} */
    this.version = undefined
    this.name = 'scene'
    this.isOnScreen = true
    this.isRefreshing = false
    this.listen()
  }

  /**
   * @template {Element} T
   * @param {string} selector
   * @param {new () => T} type
   * @returns {T}
   */
  find(selector, type) {
    const found = this.root.querySelector(selector)
    if (!(found instanceof type)) throw new TypeError(selector)
    return found
  }

  /** Connect the controls, once. */
  listen() {
    const background = this.find('select[aria-label=Background]', HTMLSelectElement)
    background.addEventListener('change', () => {
      const rgb = background.value ? background.value.split(',').map(Number) : undefined
      if (this.stage) this.stage.renderer.background = /** @type {[number, number, number] | undefined} */ (rgb)
      this.stage?.moved()
    })
    const resolution = this.find('select[aria-label=Resolution]', HTMLSelectElement)
    resolution.addEventListener('change', () => this.stage?.setResolution(Number(resolution.value)))
    const file = this.find('input[type=file]', HTMLInputElement)
    file.addEventListener('change', () => {
      if (file.files?.[0]) this.open(file.files[0])
      file.value = ''
    })
    this.root.addEventListener('click', ({ target }) => {
      const action = target instanceof HTMLElement ? target.dataset.do : undefined
      if (action === 'reset') this.reset()
      if (action === 'save') this.save()
      if (action === 'facts') this.toggleFacts()
    })
    this.addEventListener('dragover', (event) => {
      event.preventDefault()
      this.classList.add('over')
    })
    this.addEventListener('dragleave', () => this.classList.remove('over'))
    this.addEventListener('drop', (event) => {
      event.preventDefault()
      this.classList.remove('over')
      if (event.dataTransfer?.files[0]) this.open(event.dataTransfer.files[0])
    })
  }

  connectedCallback() {
    if (!this.stage) this.start()
    const wake = () => this.stage?.setVisible(!document.hidden && this.isConnected && this.isOnScreen)
    this.wakeListener = wake
    document.addEventListener('visibilitychange', wake)
    this.hashListener = () => this.takeViewFromAddress()
    addEventListener('hashchange', this.hashListener)
    this.sizes = new ResizeObserver(() => this.stage?.moved())
    this.sizes.observe(this)
    this.sights = new IntersectionObserver(([entry]) => {
      this.isOnScreen = entry.isIntersecting
      wake()
    })
    this.sights.observe(this)
    wake()
    this.setRefresh()
  }

  disconnectedCallback() {
    this.stage?.setVisible(false)
    this.sizes?.disconnect()
    this.sights?.disconnect()
    clearInterval(this.refreshTimer)
    if (this.wakeListener) document.removeEventListener('visibilitychange', this.wakeListener)
    if (this.hashListener) removeEventListener('hashchange', this.hashListener)
  }

  /**
   * @param {string} name
   * @param {string | null} _before
   * @param {string | null} value
   */
  attributeChangedCallback(name, _before, value) {
    if (name === 'src' && value && this.stage) this.fetch(value)
    if (name === 'label') this.canvas.setAttribute('aria-label', value || '3-D scene')
    if (name === 'bare') this.find('.bar', HTMLElement).hidden = value !== null
    if (name === 'refresh' && this.isConnected) this.setRefresh()
  }

  /** Get hold of the graphics, then of the source. */
  start() {
    try {
      this.stage = new Stage(this.canvas, {
        onFrame: () => this.showRate(),
        onMove: () => this.keepViewInAddress(),
        onLost: (isLost) => this.say(isLost ? 'The graphics were reset by the system; restoring the picture.' : ''),
      })
    } catch (error) {
      this.fail(error)
      return
    }
    const source = this.getAttribute('src')
    if (source) this.fetch(source)
  }

  /**
   * Show the field of a file that the browser was handed.
   *
   * @param {File} file
   */
  async open(file) {
    clearInterval(this.refreshTimer)
    await this.load(new Uint8Array(await file.arrayBuffer()), file.name)
  }

  /** @param {string} source a URL */
  async fetch(source) {
    if (!this.stage) return
    const signal = this.begin(`Loading ${nameOf(source)}`)
    try {
      const found = await fetchBytes(source, signal)
      if (found.bytes) await this.show(found.bytes, nameOf(source), signal, false)
      else this.say(`Waiting for ${nameOf(source)}`)
      this.version = found.version
    } catch (error) {
      if (!signal.aborted) this.fail(error, nameOf(source))
    }
  }

  /** Ask the source for a newer version, and show it from where the old one was seen. */
  async refresh() {
    const source = this.getAttribute('src')
    if (!source || document.hidden || this.isRefreshing) return
    this.isRefreshing = true
    const { signal } = this.loading
    try {
      const found = await fetchBytes(source, signal, this.version)
      if (found.bytes) {
        await this.show(found.bytes, nameOf(source), signal, true)
        this.version = found.version
      }
    } catch {
      // The training that wrote the source has ended, or a version was replaced while it was read: what is there stays.
    } finally {
      this.isRefreshing = false
    }
  }

  setRefresh() {
    clearInterval(this.refreshTimer)
    const seconds = Number(this.getAttribute('refresh'))
    if (seconds > 0) this.refreshTimer = window.setInterval(() => this.refresh(), 1000 * seconds)
  }

  /**
   * Show the field of a file.
   *
   * @param {Uint8Array} bytes of the .vqrf file
   * @param {string} name for a person
   */
  async load(bytes, name) {
    if (!this.stage) return
    const signal = this.begin(`Decoding ${name}`)
    try {
      await this.show(bytes, name, signal, false)
    } catch (error) {
      if (!signal.aborted) this.fail(error, name)
    }
  }

  /**
   * @param {Uint8Array} bytes
   * @param {string} name
   * @param {AbortSignal} signal
   * @param {boolean} keepCamera
   */
  async show(bytes, name, signal, keepCamera) {
    const { stage } = this
    if (!stage) return
    const { drawn, facts } = await loadInWorker(bytes, stage.renderer.maxSide, signal, (early) => stage.warmUp(early))
    if (signal.aborted) return
    stage.setField(drawn, keepCamera)
    if (!keepCamera) this.takeViewFromAddress()
    this.facts = facts
    this.describe(name, rowsOf(facts, drawn.shading, drawn.layers.length))
    this.say('')
    this.dispatchEvent(new CustomEvent('vqrf-load', { detail: facts }))
  }

  /** @param {string} message */
  begin(message) {
    this.loading.abort()
    this.loading = new AbortController()
    this.say(message)
    return this.loading.signal
  }

  /** @param {string} message nothing to take it away */
  say(message) {
    for (const [selector, text] of [['.status', message], ['.alert', '']]) {
      const box = this.find(selector, HTMLElement)
      box.hidden = !text
      box.children[0].textContent = text
    }
  }

  /**
   * @param {unknown} error
   * @param {string} [name] of the file
   */
  fail(error, name) {
    this.say('')
    const reason = error instanceof Error ? error.message : String(error)
    const isDamaged = error instanceof LoadError && error.section !== undefined
    const isKnown = error instanceof LoadError || error instanceof NoGraphics
    const box = this.find('.alert', HTMLElement)
    box.hidden = false
    box.children[0].textContent = isDamaged ? `${name} cannot be shown: ${reason}.` : isKnown ? reason : `Something failed: ${reason}`
    this.dispatchEvent(new CustomEvent('vqrf-error', { detail: error }))
  }

  reset() {
    this.stage?.orbit?.reset()
    this.stage?.moved()
  }

  /** Hand the picture to the person, at the size of the canvas. */
  async save() {
    const camera = this.stage?.camera()
    if (!this.stage || !camera || !this.stage.renderer.drawn) return
    const { width, height } = camera
    const canvas = Object.assign(document.createElement('canvas'), { width, height })
    const pixels = await this.stage.renderer.capture(camera)
    canvas.getContext('2d')?.putImageData(new ImageData(/** @type {any} */ (pixels), width, height), 0, 0)
    const blob = await new Promise((/** @type {(blob: Blob | null) => void} */ resolve) => canvas.toBlob(resolve))
    if (!blob) return
    const link = document.createElement('a')
    link.href = URL.createObjectURL(blob)
    link.download = `${this.name.replace(/\.vqrf$/, '')}.png`
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 1000)
  }

  toggleFacts() {
    const panel = this.find('.panel', HTMLElement)
    panel.hidden = !panel.hidden
    this.find('[data-do=facts]', HTMLElement).setAttribute('aria-expanded', String(!panel.hidden))
  }

  /**
   * @param {string} name
   * @param {[string, string][]} rows
   */
  describe(name, rows) {
    this.name = name
    if (!this.hasAttribute('label')) this.canvas.setAttribute('aria-label', `3-D scene ${name}`)
    this.find('h2', HTMLElement).textContent = name
    const list = this.find('dl', HTMLElement)
    list.replaceChildren(
      ...rows.flatMap(([term, value]) => [
        Object.assign(document.createElement('dt'), { textContent: term }),
        Object.assign(document.createElement('dd'), { textContent: value }),
      ]),
    )
  }

  showRate() {
    const now = performance.now()
    if (!this.stage || now - this.lastRate < RATE_MS) return
    this.lastRate = now
    const { framesPerSecond, width, height } = this.stage.progress()
    const rate = framesPerSecond ? `${framesPerSecond.toFixed(0)} frames/s, ` : ''
    this.find('.rate', HTMLElement).textContent = `${rate}${width} × ${height}`
  }

  keepViewInAddress() {
    if (!this.hasAttribute('hash') || this.hashTimer !== undefined) return
    this.hashTimer = window.setTimeout(() => {
      this.hashTimer = undefined
      const view = this.stage?.orbit?.toString()
      const rest = location.hash.replace(/^#/, '').split('&').filter((part) => part && !part.startsWith('view='))
      if (view && this.isConnected) history.replaceState(history.state, '', `#${[...rest, `view=${view}`].join('&')}`)
    }, HASH_MS)
  }

  takeViewFromAddress() {
    const found = this.hasAttribute('hash') ? VIEW.exec(location.hash) : null
    if (found && this.stage?.orbit?.parse(decoded(found[1]))) this.stage.moved()
  }
}

if (!customElements.get('vqrf-viewer')) customElements.define('vqrf-viewer', VqrfViewer)
