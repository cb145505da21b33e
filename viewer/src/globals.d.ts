/** The text of the bundled worker, which the build puts in. */
declare const WORKER_SOURCE: string
