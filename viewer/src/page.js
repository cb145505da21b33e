/**
 * The page of one scene. Either the file is inside, in base64, or the page names it: in its address, `?src=`, or in the element.
 */

import './element.js'
import { VqrfViewer } from './element.js'

/** @param {string} text base64 */
function bytesFromBase64(text) {
  const binary = atob(text)
  const bytes = new Uint8Array(binary.length)
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i)
  return bytes
}

const viewer = document.querySelector('vqrf-viewer')
if (viewer instanceof VqrfViewer) {
  const asked = new URLSearchParams(location.search).get('src')
  const inside = document.getElementById('scene')
  if (asked) viewer.setAttribute('src', asked)
  else if (inside) viewer.load(bytesFromBase64(inside.textContent ?? ''), inside.dataset.name ?? 'scene.vqrf')
}
