/** In React 19: the element takes properties, and `on` with an event's name listens to it. */

import { useRef, useState } from 'react'
import type { VqrfViewer } from 'vqrf-viewer'
import 'vqrf-viewer/react'

export function Scene({ src }: { src: string }) {
  const viewer = useRef<VqrfViewer>(null)
  const [title, setTitle] = useState('')
  return (
    <figure>
      <vqrf-viewer
        ref={viewer}
        src={src}
        interaction="ctrl"
        style={{ height: 480 }}
        onload={({ detail }) => setTitle(detail.title || detail.name)}
      />
      <figcaption>
        {title} <button onClick={() => viewer.current?.reset()}>Back</button>
      </figcaption>
    </figure>
  )
}
