/**
 * `<vqrf-viewer src="scene.vqrf">`: a field to look at. What it offers to pages is in viewer/README.md and types/index.d.ts.
 *
 * It can be imported where there is no DOM; there it does nothing.
 */

import { aboutOf, amid, earlyPoster, isDistances, isPitches, numbersOf } from './about.js'
import { factsOf } from './facts.js'
import { fetchBytes, joined, LoadError, loadInWorker } from './loader.js'
import { FLIGHT, FLIGHT_OF_FINGERS, MARKUP, STYLE } from './markup.js'
import { Panels, prefers, Timers } from './panels.js'
import { pick } from './pick.js'
import { NoGraphics, resized } from './renderer.js'
import { Stage } from './stage.js'

/** Milliseconds between two changes of the page's address, which browsers limit. */
const HASH_MS = 400
/** Milliseconds for which a word stays. */
const WORD_MS = 2500
/** How much nearer a camera comes that is pointed at something. */
const NEARER = 0.6
const STILL = 'prefers-reduced-motion: reduce'
/** Share of the sides of a picture that is finer than a poster. */
const FINER = 1 / 4
/** Of the progress that is shown: what has arrived, what is decoded. */
const ARRIVED = 0.7
const DECODED = 0.9
/** Milliseconds of arriving after which a file is shown as far as it is there, and between two such times. */
const GLIMPSE_MS = 1000

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

/** @param {string | null} text numbers */
const numbersIn = (text) => text?.trim().split(/[\s,]+/).map(Number)

/** @param {string | null | undefined} text `#rgb` or `#rrggbb` @returns {[number, number, number] | undefined} */
function colorOf(text) {
  const hex = text?.trim() ?? ''
  if (!/^#([0-9a-f]{3}){1,2}$/i.test(hex)) return undefined
  const digits = hex.length < 7 ? hex.replace(/\w/g, '$&$&') : hex
  return /** @type {any} */ ([1, 3, 5].map((at) => Number.parseInt(digits.slice(at, at + 2), 16) / 255))
}

const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {})

/** Attributes that a property reflects, as a text, or as a mark that is there or not. */
const TEXTS = ['src', 'label', 'poster', 'background', 'refresh', 'distance', 'pitch', 'hash']
const MARKS = ['bare', 'auto-rotate']

export class VqrfViewer extends Base {
  static observedAttributes = [...TEXTS, ...MARKS, 'interaction']

  timers = new Timers()
  /** @type {Stage | undefined} */
  stage
  /** @type {import('./facts.js').Facts | undefined} */
  facts
  /** What loads; what it has found out lives as long as it is in a page. */
  loading = new AbortController()
  attached = new AbortController()
  /** @type {string | undefined} of the source that is shown */
  version
  isOnScreen = false
  isRefreshing = false
  /** Whether the view is another than the file's first. */
  isAway = false
  /** Whether there is more to come of what is loaded. */
  isArriving = false
  /** Whether what is shown is the beginning of a file. */
  isGlimpse = false

  constructor() {
    super()
    const root = this.attachShadow({ mode: 'open' })
    const sheet = new CSSStyleSheet()
    sheet.replaceSync(STYLE)
    root.adoptedStyleSheets = [sheet]
    root.innerHTML = MARKUP
    this.root = root
    this.panels = new Panels(root)
    this.surface = this.panels.part('.surface')
    this.listen()
  }

  /** Connect the controls, once. */
  listen() {
    const { panels } = this
    const background = /** @type {HTMLSelectElement} */ (panels.part('select'))
    background.addEventListener('change', () => this.setBackground(background.value))
    const file = /** @type {HTMLInputElement} */ (panels.part('input'))
    file.addEventListener('change', () => {
      if (file.files?.[0]) this.open(file.files[0])
      file.value = ''
    })
    this.root.addEventListener('click', ({ target }) => {
      const action = target instanceof Element ? target.closest('[data-do]') : undefined
      if (action) this.act(/** @type {HTMLElement} */ (action).dataset.do ?? '', action)
    })
    this.addEventListener('keydown', (event) => this.key(event))
    for (const type of ['pointermove', 'pointerdown', 'focusin']) this.addEventListener(type, () => panels.showBar())
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
    const wake = () => this.stage?.setVisible(!document.hidden && this.isConnected && this.isOnScreen)
    this.attached = new AbortController()
    const { signal } = this.attached
    document.addEventListener('visibilitychange', wake, { signal })
    addEventListener('hashchange', () => this.takeViewFromAddress(), { signal })
    const sizes = new ResizeObserver(() => {
      this.stage?.resized()
      this.stage?.controls.settle()
    })
    const sights = new IntersectionObserver((entries) => {
      this.isOnScreen = entries[entries.length - 1].isIntersecting
      wake()
      this.stage?.controls.settle()
    })
    for (const observer of [sizes, sights]) {
      observer.observe(this)
      signal.addEventListener('abort', () => observer.disconnect())
    }
    const source = this.getAttribute('src')
    this.begun()
    if (source && !this.facts) this.fetch(source)
    this.setRefresh()
    this.panels.showBar()
    this.panels.part('[data-do=share]').hidden = !this.hasAttribute('hash')
    this.panels.part('[data-do=full]').hidden = !document.fullscreenEnabled
  }

  disconnectedCallback() {
    this.stage?.setVisible(false)
    this.attached.abort()
    this.isOnScreen = false
    this.timers.stop()
    this.panels.timers.stop()
    clearInterval(this.refreshTimer)
    queueMicrotask(() => {
      // Who was only moved to another place is there again.
      if (this.isConnected) return
      this.loading.abort()
      this.stage?.destroy()
    })
  }

  /**
   * @param {string} name
   * @param {string | null} _before
   * @param {string | null} value
   */
  attributeChangedCallback(name, _before, value) {
    if (name === 'src' && value && this.isConnected) this.fetch(value)
    if (name === 'label') this.surface.setAttribute('aria-label', value || '3-D scene')
    if (name === 'bare') this.panels.part('.bar').hidden = value !== null
    if (name === 'refresh' && this.isConnected) this.setRefresh()
    if (name === 'poster') this.panels.showPoster(value ?? undefined)
    if (name === 'background') this.setBackground(value ?? '')
    if (name === 'interaction') this.stage?.controls.settle()
    if (name === 'distance' || name === 'pitch') this.limit()
    if (name === 'auto-rotate') this.startTurning()
  }

  /** The stage, which is made when it is first needed. */
  begun() {
    if (this.stage) return this.stage
    const touched = () => {
      this.isAway = true
      if (stage.orbit) stage.orbit.goal = undefined
      if (this.stage?.turning !== 'no') this.pause()
    }
    const stage = new Stage(
      this.surface,
      {
        onFrame: () => this.shown(),
        onMove: () => this.tell('camerachange', this.camera),
        onLost: (isLost) => this.panels.say(isLost ? 'Restoring the graphics.' : ''),
        onFail: (error) => this.fail(error),
      },
      {
        interaction: () => this.interaction,
        isPageScrolling: () => this.isPageScrolling(),
        onTouched: touched,
        changed: () => this.moved(),
        onRefused: () => this.panels.say(prefers('pointer: coarse') ? 'Use two fingers to move the scene' : 'Hold Ctrl to zoom', WORD_MS),
        onPointed: (x, y) => this.focusOn(x, y),
      },
    )
    this.stage = stage
    stage.background = colorOf(this.getAttribute('background'))
    stage.setVisible(!document.hidden && this.isOnScreen)
    return stage
  }

  /** Whether wheel and fingers over the viewer may be meant for what is around it. */
  isPageScrolling() {
    if (document.fullscreenElement === this) return false
    for (let around = this.parentElement; around; around = around.parentElement) {
      const isRoot = around === document.documentElement
      const { overflowY } = getComputedStyle(around)
      if (around.scrollHeight > around.clientHeight + 1 && (isRoot ? overflowY !== 'hidden' : /auto|scroll/.test(overflowY))) return true
    }
    return false
  }

  /** A person or the page has moved the camera. */
  moved() {
    this.stage?.moved()
    this.keepViewInAddress()
  }

  // ------------------------------------------------------------------------------------------------------------ files

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
    const name = nameOf(source)
    const signal = this.begin(`Loading ${name}`)
    const arriving = new AbortController()
    let isBusy = false
    try {
      const found = await fetchBytes(source, signal, undefined, (chunks, loaded, total) => {
        if (!chunks[1]) this.announce(chunks[0])
        this.advance(total > loaded ? (ARRIVED * loaded) / total : ARRIVED, loaded, total)
        if (isBusy) return
        isBusy = true
        this.timers.set('glimpse', GLIMPSE_MS, async () => {
          // Where that cannot be shown, there is not enough of it yet.
          await this.show(await joined(chunks), name, arriving.signal, false, false).catch(() => {})
          isBusy = false
        })
      })
      arriving.abort()
      if (found.bytes) await this.show(found.bytes, name, signal, false)
      else this.panels.say(`Waiting for ${name}`)
      this.version = found.version
    } catch (error) {
      arriving.abort()
      if (!signal.aborted) this.fail(error, name)
    }
  }

  /** Ask the source for a newer version, and show it from where the old one was seen. */
  async refreshNow() {
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
    if (seconds > 0) this.refreshTimer = window.setInterval(() => this.refreshNow(), 1000 * seconds)
  }

  /**
   * Show the field of a file.
   *
   * @param {Uint8Array} bytes of the .vqrf file
   * @param {string} [name] for a person
   */
  async load(bytes, name = 'scene.vqrf') {
    const signal = this.begin(`Decoding ${name}`)
    try {
      this.announce(bytes)
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
   * @param {boolean} [isWhole] else it is shown as far as it is there, and no more is said of it
   */
  async show(bytes, name, signal, keepCamera, isWhole = true) {
    const stage = this.begun()
    const advance = (/** @type {number} */ share) => !keepCamera && isWhole && this.advance(share, bytes.length, bytes.length)
    advance(ARRIVED)
    const graphics = await stage.graphics()
    if (signal.aborted || !graphics) return
    const take = (/** @type {import('./worker.js').Loaded} */ loaded) => {
      const about = amid(aboutOf(loaded.said.metadata), loaded.drawn.home)
      const isKept = keepCamera ? Boolean(this.facts) : this.isGlimpse && this.isAway
      if (!isKept) this.fly(false)
      stage.setField(loaded.drawn, isKept, about)
      this.limits = about
      this.limit()
      if (!isKept) this.takeViewFromAddress()
      this.isGlimpse = !isWhole || /** @type {boolean} */ (loaded.drawn.isCoarse)
      if (this.isGlimpse) return
      this.isArriving = false
      advance(DECODED)
      if (!keepCamera) this.startTurning()
      this.facts = factsOf(name, loaded, about)
      if (!this.hasAttribute('label')) this.surface.setAttribute('aria-label', `3-D scene ${about.title || name}`)
      this.panels.describe(this.facts, loaded)
      this.panels.say('')
      this.tell('load', this.facts)
    }
    const task = { bytes, maxSide: graphics.maxSide, truncated: !isWhole }
    const loaded = await loadInWorker(task, signal, (early) => stage.warmUp(early), (coarse) => keepCamera || take(coarse))
    if (!signal.aborted) take(loaded)
  }

  /** @param {string} message */
  begin(message) {
    this.loading.abort()
    this.loading = new AbortController()
    this.isArriving = true
    this.isGlimpse = false
    this.panels.say(message)
    return this.loading.signal
  }

  /** Show the picture of a file before any of it is decoded. @param {Uint8Array} bytes its beginning */
  announce(bytes) {
    const poster = earlyPoster(bytes)
    if (poster && !this.hasAttribute('poster') && !this.facts) this.panels.showPoster(poster)
  }

  // ------------------------------------------------------------------------------------------------------------ words

  /**
   * @template T
   * @param {string} type
   * @param {T} detail
   */
  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }

  /** @param {number} share of all that there is to do @param {number} loaded bytes @param {number} total 0 if nobody knows */
  advance(share, loaded, total) {
    this.panels.advance(share)
    this.tell('progress', { 'share': share, 'loaded': loaded, 'total': total })
  }

  /**
   * @param {unknown} error
   * @param {string} [name] of the file
   */
  fail(error, name) {
    const reason = error instanceof Error ? error.message : String(error)
    const isDamaged = error instanceof LoadError && error.section !== undefined
    const isKnown = error instanceof LoadError || error instanceof NoGraphics
    this.panels.warn(isDamaged ? `${name} cannot be shown: ${reason}.` : isKnown ? reason : `Something failed: ${reason}`)
    this.tell('error', error)
  }

  /** A picture is on the canvas. */
  shown() {
    const { stage } = this
    if (!stage) return
    if (stage.share >= FINER || (stage.share && this.isAway)) this.panels.setSeen(true)
    if (!this.isArriving && !this.panels.part('.progress').hidden) this.advance(1, this.facts?.bytes ?? 0, this.facts?.bytes ?? 0)
    this.panels.setPlaying(!this.paused)
  }

  // --------------------------------------------------------------------------------------------------------- a person

  /**
   * @param {string} action of a button of ours: mostly the name of a method
   * @param {Element} button
   */
  act(action, button) {
    const panel = button.closest('.panel')
    if (action === 'play') this.paused ? this.play() : this.pause()
    else if (action === 'facts' || action === 'help') this.panels.toggle(action)
    else if (action !== 'close') /** @type {any} */ (this)[action]()
    else if (panel) this.panels.toggle(panel.id)
    else this.panels.say('')
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const isOnSurface = this.root.activeElement === this.surface
    if (event.key === 'Escape') {
      if (!this.panels.close() && !this.fly(false)) return
    } else if (event.key === '?') this.panels.toggle('help')
    else if (event.code === 'KeyF' && isOnSurface) this.full()
    else if (event.code === 'KeyV' && isOnSurface) this.fly()
    else if (event.code === 'Space' && isOnSurface) this.paused ? this.play() : this.pause()
    else return
    event.preventDefault()
  }

  /**
   * Let a person fly, or turn the scene again.
   *
   * @param {boolean} [isFlying] the other of both unless said
   * @returns {boolean} whether that is another than before
   */
  fly(isFlying) {
    const orbit = this.stage?.orbit
    const before = orbit?.isFlying ?? false
    const next = (isFlying ?? !before) && this.interaction !== 'none'
    if (!orbit || next === before) return false
    if (next) this.pause()
    orbit.isFlying = next
    this.panels.press('fly', next)
    this.panels.say(!next ? '' : prefers('pointer: coarse') ? FLIGHT_OF_FINGERS : FLIGHT, 2 * WORD_MS)
    this.surface.focus()
    return true
  }

  full() {
    if (document.fullscreenElement === this) document.exitFullscreen()
    else this.requestFullscreen?.().then(() => this.stage?.controls.settle(), () => {})
  }

  /** Hand on a link to what is seen now. */
  async share() {
    this.writeView()
    try {
      await navigator.clipboard.writeText(location.href)
      this.panels.say('Link copied', WORD_MS)
    } catch {
      this.panels.say("The page's address is the link", WORD_MS)
    }
  }

  /** Hand the picture to the person, at the size of the viewer. */
  async save() {
    const blob = await this.capture()
    const link = document.createElement('a')
    link.href = URL.createObjectURL(blob)
    link.download = `${this.facts?.name.replace(/\.vqrf$/, '')}.png`
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 1000)
  }

  /** Turn around what is at a place of the surface. @param {number} x @param {number} y in pixels of the page */
  focusOn(x, y) {
    const { stage } = this
    const camera = stage?.orbit?.camera(this.surface.clientWidth, this.surface.clientHeight)
    const place = stage?.drawn && camera && pick(stage.drawn, camera, x, y)
    if (!stage?.orbit || !place) return
    stage.orbit.goal = [...place, stage.orbit.distance * NEARER]
    stage.isStill = prefers(STILL)
    this.moved()
  }

  // ---------------------------------------------------------------------------------------------------------- a page

  get interaction() {
    const value = this.getAttribute('interaction')
    return value === 'none' || value === 'ctrl' ? value : 'auto'
  }

  set interaction(value) {
    this.setAttribute('interaction', value)
  }

  /** Where the camera stands and what it looks at; nothing before a file is there. */
  get camera() {
    const orbit = this.stage?.orbit
    return orbit && { 'position': orbit.position, 'target': [...orbit.target] }
  }

  set camera(view) {
    const orbit = this.stage?.orbit
    const isAny = () => true
    const position = numbersOf(view?.position, 3, isAny)
    const target = numbersOf(view?.target, 3, isAny)
    if (!orbit || !position || !target) throw new TypeError('camera: expected position and target, of a file that is loaded')
    this.isAway = true
    orbit.look(position, target)
    this.stage?.moved()
  }

  get paused() {
    return this.stage?.turning !== 'yes'
  }

  play() {
    this.fly(false)
    this.begun().turn('yes')
  }

  pause() {
    this.stage?.turn('no')
    this.shown()
  }

  reset() {
    this.stage?.orbit?.reset()
    this.moved()
  }

  /**
   * The picture of the present view, sharp.
   *
   * @param {{ width?: number, height?: number, type?: string }} [options] in pixels; of an image's media type
   * @returns {Promise<Blob>}
   */
  async capture({ width, height, type = 'image/png' } = {}) {
    const { stage } = this
    const renderer = this.facts && (await stage?.graphics())
    const camera = stage?.camera()
    if (!renderer?.drawn || !camera) throw new Error('there is no picture yet')
    const size = { width: width ?? camera.width, height: height ?? camera.height }
    const canvas = Object.assign(document.createElement('canvas'), size)
    const view = width || height ? stage?.orbit?.camera(size.width, size.height) : resized(camera, size.width, size.height)
    const pixels = await renderer.capture(/** @type {import('./renderer.js').Camera} */ (view))
    canvas.getContext('2d')?.putImageData(new ImageData(/** @type {any} */ (pixels), size.width, size.height), 0, 0)
    const blob = await new Promise((/** @type {(blob: Blob | null) => void} */ resolve) => canvas.toBlob(resolve, type))
    if (!blob) throw new Error(`a picture of ${size.width}x${size.height} cannot be made`)
    return blob
  }

  /** Give back the graphics, the field and the worker. The next file, or the next time in a page, begins anew. */
  destroy() {
    this.loading.abort()
    this.stage?.destroy()
    this.stage = undefined
    this.facts = undefined
    this.surface.replaceChildren()
    this.surface.replaceWith((this.surface = /** @type {HTMLElement} */ (this.surface.cloneNode())))
    this.panels.setSeen(false)
  }

  /** @param {string} text a colour, or nothing for the file's */
  setBackground(text) {
    const color = colorOf(text)
    this.surface.style.backgroundColor = color ? text : ''
    if (!this.stage) return
    this.stage.background = color
    this.stage.moved()
  }

  /** Take limits from the attributes, else from the file. */
  limit() {
    const distance = numbersOf(numbersIn(this.getAttribute('distance')), 2, isDistances)
    const pitch = numbersOf(numbersIn(this.getAttribute('pitch')), 2, isPitches)
    this.stage?.orbit?.limit(distance ?? this.limits?.distance, pitch ?? this.limits?.pitch)
    if (this.stage?.share) this.stage.moved()
  }

  startTurning() {
    const isAsked = this.hasAttribute('auto-rotate') && !this.isAway && !prefers(STILL)
    if (isAsked && this.stage?.turning === 'no') this.stage.turn('smoothly')
    if (!this.hasAttribute('auto-rotate')) this.stage?.turn('no')
  }

  /** The name of the view in the page's address. */
  get viewKey() {
    return this.getAttribute('hash') || 'view'
  }

  keepViewInAddress() {
    if (!this.hasAttribute('hash') || this.timers.running.has('hash')) return
    this.timers.set('hash', HASH_MS, () => this.writeView())
  }

  writeView() {
    const view = this.stage?.orbit?.toString()
    const rest = location.hash.replace(/^#/, '').split('&').filter((part) => part && !part.startsWith(`${this.viewKey}=`))
    if (view && this.isConnected) history.replaceState(history.state, '', `#${[...rest, `${this.viewKey}=${view}`].join('&')}`)
  }

  takeViewFromAddress() {
    if (!this.hasAttribute('hash')) return
    const part = location.hash.replace(/^#/, '').split('&').find((text) => text.startsWith(`${this.viewKey}=`))
    if (!part || !this.stage?.orbit?.parse(decoded(part.slice(this.viewKey.length + 1)))) return
    this.isAway = true
    if (this.stage.share) this.stage.moved()
  }
}

/** @type {(name: string, own: PropertyDescriptor & ThisType<VqrfViewer>) => void} */
const reflect = (name, own) => Object.defineProperty(VqrfViewer.prototype, name, { configurable: true, enumerable: true, ...own })

for (const name of [...TEXTS, ...MARKS]) {
  const isMark = MARKS.includes(name)
  reflect(name.replace('-r', 'R'), {
    get() {
      return isMark ? this.hasAttribute(name) : (this.getAttribute(name) ?? '')
    },
    set(value) {
      if (isMark ? value : value !== null && value !== undefined) this.setAttribute(name, isMark ? '' : value)
      else this.removeAttribute(name)
    },
  })
}

if (globalThis.customElements && !customElements.get('vqrf-viewer')) customElements.define('vqrf-viewer', VqrfViewer)
