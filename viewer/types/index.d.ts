/** `<vqrf-viewer>`, an element that shows a .vqrf radiance field. README.md says what each part does. */

export type Vector = [number, number, number]

/** Where the camera stands and what it looks at and turns around, in the world of the file. */
export interface CameraView {
  position: Vector
  target: Vector
}

/** What there is to say about a file; `title` to `description` are text of whoever made it, and empty where nothing is said. */
export interface Facts {
  readonly name: string
  readonly bytes: number
  readonly title: string
  readonly author: string
  readonly licence: string
  readonly description: string
  /** Voxels along x, y, z. */
  readonly shape: Vector
  readonly channels: number
  /** Voxels that are not empty. */
  readonly voxels: number
  readonly colour: 'network' | 'harmonics' | 'rgb'
  /** On test views, in dB, as the file says. */
  readonly psnr: number | undefined
  readonly ssim: number | undefined
  readonly sections: readonly { name: string; bytes: number }[]
  /** All that the file says of itself, of whatever shape. */
  readonly metadata: Record<string, unknown>
  readonly decodeMs: number
  readonly texturesMs: number
}

/** How far a file is; `share` is of all that there is to do, `total` is 0 where no server says it. */
export interface Progress {
  share: number
  loaded: number
  total: number
}

export type Interaction = 'auto' | 'none' | 'ctrl'

export interface VqrfViewerEventMap extends HTMLElementEventMap {
  load: CustomEvent<Facts> & Event
  progress: CustomEvent<Progress> & ProgressEvent
  error: CustomEvent<Error> & ErrorEvent
  camerachange: CustomEvent<CameraView | undefined>
}

export declare class VqrfViewer extends HTMLElement {
  /** Attributes, and the properties that reflect them. */
  src: string
  label: string
  poster: string
  background: string
  refresh: string
  distance: string
  pitch: string
  hash: string
  bare: boolean
  autoRotate: boolean
  interaction: Interaction

  /** Nothing before the first file is there. */
  readonly facts: Facts | undefined
  /** Nothing before the first file, or its coarse levels, are there; only then may it be set. */
  get camera(): CameraView | undefined
  set camera(view: CameraView)
  /** Whether the scene does not turn by itself. */
  readonly paused: boolean

  load(bytes: Uint8Array, name?: string): Promise<void>
  play(): void
  pause(): void
  /** Back to the first view. */
  reset(): void
  /** A sharp picture of the present view. */
  capture(options?: { width?: number; height?: number; type?: string }): Promise<Blob>
  /** Give back graphics, field and worker; the next file begins anew. */
  destroy(): void

  addEventListener<K extends keyof VqrfViewerEventMap>(
    type: K,
    listener: (this: VqrfViewer, event: VqrfViewerEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void
}

declare global {
  interface HTMLElementTagNameMap {
    'vqrf-viewer': VqrfViewer
  }
}
