/** Bytes to a field that can be drawn, in a worker that is made from a text: that works from `file://` too. */

/** Answers of a server that has nothing new, or nothing yet. */
const NOT_MODIFIED = 304
const NO_CONTENT = 204

/** A file that cannot be shown; the message is for a person. */
export class LoadError extends Error {
  /**
   * @param {string} message
   * @param {string} [section] of a damaged file
   */
  constructor(message, section) {
    super(message)
    this.name = 'LoadError'
    this.section = section
  }
}

/**
 * @param {Uint8Array} bytes
 * @param {number} maxSide of a 3-D texture
 * @param {AbortSignal} signal ends the work
 * @param {(early: import('./worker.js').Early['early']) => void} onEarly gets what is known before the voxels
 * @returns {Promise<import('./worker.js').Loaded>}
 * @throws {LoadError}
 */
export function loadInWorker(bytes, maxSide, signal, onEarly) {
  const url = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: 'text/javascript' }))
  return new Promise((resolve, reject) => {
    const worker = new Worker(url)
    const end = () => {
      worker.terminate()
      URL.revokeObjectURL(url)
    }
    signal.addEventListener('abort', () => {
      end()
      reject(signal.reason)
    })
    worker.onmessage = (/** @type {MessageEvent<import('./worker.js').Answer>} */ { data }) => {
      if ('early' in data) {
        onEarly(data.early)
        return
      }
      end()
      if ('error' in data) reject(new LoadError(data.error.message, data.error.section))
      else resolve(data)
    }
    worker.onerror = (event) => {
      end()
      reject(new LoadError(event.message || 'the decoder could not be started'))
    }
    worker.postMessage({ bytes, maxSide })
  })
}

/**
 * @param {string} source a URL
 * @param {AbortSignal} signal
 * @param {string} [version] that is there already
 * @returns {Promise<{ bytes?: Uint8Array, version?: string }>} no bytes if there is nothing newer, or nothing yet
 * @throws {LoadError}
 */
export async function fetchBytes(source, signal, version) {
  let response
  try {
    response = await fetch(source, { signal, cache: 'no-store', headers: version ? { 'If-None-Match': version } : {} })
  } catch (error) {
    if (signal.aborted) throw error
    throw new LoadError(`${source} cannot be fetched`)
  }
  if (response.status === NOT_MODIFIED || response.status === NO_CONTENT) return { version }
  if (!response.ok) throw new LoadError(`${source} cannot be fetched: the server answers ${response.status}`)
  return { bytes: new Uint8Array(await response.arrayBuffer()), version: response.headers.get('ETag') ?? undefined }
}
