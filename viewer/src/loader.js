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

/** @param {Uint8Array<ArrayBuffer>[]} chunks */
export const joined = async (chunks) => new Uint8Array(await new Blob(chunks).arrayBuffer())

/**
 * @param {import('./worker.js').Task} task
 * @param {AbortSignal} signal ends the work
 * @param {(early: import('./worker.js').Early['early']) => void} onEarly gets what is known before the voxels
 * @param {(coarse: import('./worker.js').Loaded) => void} onCoarse gets coarser fields that are there sooner
 * @returns {Promise<import('./worker.js').Loaded>}
 * @throws {LoadError}
 */
export function loadInWorker(task, signal, onEarly, onCoarse) {
  const url = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: 'text/javascript' }))
  return new Promise((resolve, reject) => {
    const worker = new Worker(url)
    const end = () => {
      signal.removeEventListener('abort', abort)
      worker.terminate()
      URL.revokeObjectURL(url)
    }
    const abort = () => {
      end()
      reject(signal.reason)
    }
    if (signal.aborted) return abort()
    signal.addEventListener('abort', abort, { once: true })
    worker.onmessage = (/** @type {MessageEvent<import('./worker.js').Answer>} */ { data }) => {
      if ('early' in data) return onEarly(data.early)
      if ('drawn' in data && data.drawn.isCoarse) return onCoarse(data)
      end()
      if ('error' in data) reject(new LoadError(data.error.message, data.error.section))
      else resolve(data)
    }
    worker.onerror = (event) => {
      end()
      reject(new LoadError(event.message || 'the decoder does not start'))
    }
    worker.postMessage(task)
  })
}

/**
 * @callback OnBytes called as a file arrives
 * @param {Uint8Array<ArrayBuffer>[]} chunks all that is there, and will be
 * @param {number} loaded bytes so far
 * @param {number} total bytes, 0 if nobody says
 */

/**
 * @param {string} source a URL
 * @param {AbortSignal} signal
 * @param {string} [version] that is there already
 * @param {OnBytes} [onBytes]
 * @returns {Promise<{ bytes?: Uint8Array<ArrayBuffer>, version?: string }>} no bytes if there is nothing newer, or nothing yet
 * @throws {LoadError}
 */
export async function fetchBytes(source, signal, version, onBytes) {
  let response
  try {
    response = await fetch(source, { signal, cache: 'no-store', headers: version ? { 'If-None-Match': version } : {} })
  } catch (error) {
    if (signal.aborted) throw error
    throw new LoadError(`${source} cannot be fetched`)
  }
  if (response.status === NOT_MODIFIED || response.status === NO_CONTENT) return { version }
  if (!response.ok) throw new LoadError(`${source} cannot be fetched: the server answers ${response.status}`)
  return { bytes: await arrived(response, source, signal, onBytes), version: response.headers.get('ETag') ?? undefined }
}

/**
 * @param {Response} response
 * @param {string} source
 * @param {AbortSignal} signal
 * @param {OnBytes | undefined} onBytes
 */
async function arrived(response, source, signal, onBytes) {
  const total = Number(response.headers.get('Content-Length'))
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const chunks = []
  let length = 0
  try {
    const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (response.body).getReader()
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      chunks.push(next.value)
      length += next.value.length
      onBytes?.(chunks, length, total)
    }
    return joined(chunks)
  } catch (error) {
    if (signal.aborted) throw error
    throw new LoadError(`${source} cannot be fetched: the connection ended`)
  }
}
