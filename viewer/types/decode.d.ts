/** The decoder alone: a file, or a `FormatError` that names section, byte and reason. */

/** Why a file was refused. */
export declare class FormatError extends Error {
  /** "header", "end", or the four letters of a section. */
  readonly section: string
  readonly offset: number
  readonly reason: string
}

/** Whole numbers and what they stand for. */
export interface Table {
  readonly items: Uint8Array | Uint16Array
  readonly scale: Float32Array
  readonly offset: Float32Array
}

/** What all kinds of file have; FORMAT.md says what each part means. */
export interface Field {
  readonly lo: readonly [number, number, number]
  readonly hi: readonly [number, number, number]
  readonly shape: readonly [number, number, number]
  readonly channels: number
  readonly partition: Uint8Array
  readonly layers: readonly { out: number; in: number; weight: Table; bias: Table }[]
  readonly shading: number
  readonly metadata: Record<string, unknown> | undefined
  readonly sections: readonly { name: string; bytes: number }[]
}

export interface CodebookField extends Field {
  readonly codebook: Table
  readonly density: Table
  readonly kept: Table
  readonly codes: Int32Array
}

export interface PyramidField extends Field {
  readonly steps: Float32Array
  readonly basis: Float32Array | undefined
  /** Coarsest first. */
  readonly levels: readonly { coefficients: Int16Array }[]
}

export interface PlanesField extends Field {
  /** Planes on x and y, x and z, y and z, then lines on z, y, x; of each its levels, coarsest first. */
  readonly stacks: readonly (readonly { coefficients: Int16Array }[])[]
  /** Of each of these. */
  readonly stackSteps: readonly Float32Array[]
  /** How many components are density's; the others are the features'. */
  readonly densities: number
  readonly mix: Table
}

export declare function decode(
  bytes: Uint8Array,
  options?: { budget?: number; truncated?: boolean },
): CodebookField | PyramidField | PlanesField
export declare function dequantize(table: Table): Float32Array
