/** `<vqrf-viewer>` in TSX: `import 'vqrf-viewer/react'`, or name it in `types` of tsconfig.json. React 19. */

import type { DetailedHTMLProps, HTMLAttributes } from 'react'
import type { Interaction, VqrfViewer, VqrfViewerEventMap } from './index.js'

export interface VqrfViewerProps extends Omit<DetailedHTMLProps<HTMLAttributes<VqrfViewer>, VqrfViewer>, 'onLoad' | 'onError' | 'onProgress'> {
  src?: string
  label?: string
  poster?: string
  background?: string
  refresh?: string | number
  distance?: string
  pitch?: string
  hash?: string | boolean
  bare?: boolean
  autoRotate?: boolean
  interaction?: Interaction
  onload?: (event: VqrfViewerEventMap['load']) => void
  onprogress?: (event: VqrfViewerEventMap['progress']) => void
  onerror?: (event: VqrfViewerEventMap['error']) => void
  oncamerachange?: (event: VqrfViewerEventMap['camerachange']) => void
}

declare module 'react' {
  namespace JSX {
    interface IntrinsicElements {
      'vqrf-viewer': VqrfViewerProps
    }
  }
}
