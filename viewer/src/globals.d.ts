/** The text of the bundled worker, which the build puts in. */
declare const WORKER_SOURCE: string
/** The style, minified; `build.js` puts it in. */
declare const STYLE_SOURCE: string
