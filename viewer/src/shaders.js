/**
 * GLSL for one field: the rendering equation of FORMAT.md section 4, with the file's constants in it.
 *
 * A ray walks samples at whole steps k. The block table says where nothing can be: k jumps to the first sample beyond the box
 * of blocks that are known to be empty. In an occupied block, a bit for each cell says whether to read the density.
 */

import { ACTIVATION_RELU, isHarmonic, SHADING_HARMONICS_RELU } from './decode.js'
import { STRETCH } from './limits.js'
import { BLOCK_BITS, BLOCK_CELLS, BRICK, densityOfAlpha } from './textures.js'

/** A ray ends after the sample that leaves less light than this. */
const LIGHT_LEFT = 1e-3
/**
 * Samples in a row, in one brick, that share a reading of harmonics at their weighted mean: on so short a way features are nearly
 * linear. At most so many.
 */
const MAX_RUN = 2
/** Texels along a row of the texture that holds the colour MLP. */
export const WEIGHTS_WIDTH = 256

export const VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = vec4(4.0 * corner - 1.0, 0.0, 1.0);
}`

/** Composes the light with the background and enlarges the picture to the canvas, by Catmull and Rom's curve. */
export const PRESENT = `#version 300 es
precision highp float;
uniform sampler2D uPicture;
uniform vec2 uSize;
uniform vec3 uBackground;
out vec4 color;
vec4 curve(float f) {
  return vec4(f * (f * (1.0 - 0.5 * f) - 0.5), f * f * (1.5 * f - 2.5) + 1.0, f * (f * (2.0 - 1.5 * f) + 0.5), f * f * (0.5 * f - 0.5));
}
void main() {
  ivec2 sides = textureSize(uPicture, 0), at = ivec2(gl_FragCoord.xy);
  vec4 light = texelFetch(uPicture, at, 0);
  if (vec2(sides) != uSize) {
    vec2 place = gl_FragCoord.xy / uSize * vec2(sides) - 0.5;
    vec4 x = curve(fract(place.x)), y = curve(fract(place.y));
    light = vec4(0.0);
    for (int i = 0; i < 16; i++) {
      at = clamp(ivec2(floor(place)) + ivec2(i & 3, i >> 2) - 1, ivec2(0), sides - 1);
      light += texelFetch(uPicture, at, 0) * x[i & 3] * y[i >> 2];
    }
    light = clamp(light, 0.0, 1.0);
  }
  color = vec4(light.rgb + light.a * uBackground, 1.0);
}`

/** What GLSL has in place of infinity. */
const GREATEST = 3e38

/** @param {number} value */
function float(value) {
  const text = String(Math.min(GREATEST, Math.max(-GREATEST, Math.fround(value))))
  return /[.e]/.test(text) ? text : `${text}.0`
}

/**
 * A text for each number from 0 to n, one behind the other.
 *
 * @param {number} n
 * @param {(i: number) => string} text
 */
const repeated = (n, text) => Array.from({ length: n }, (_, i) => text(i)).join('')

/** @param {readonly number[]} values */
const vec3 = (values) => `vec3(${values.map(float)})`

/** The real spherical harmonics of a unit direction `d`, by degree; nine digits name any number of 32 bits. */
const HARMONICS = [
  '0.282094792',
  '-0.488602512 * d.y',
  '0.488602512 * d.z',
  '-0.488602512 * d.x',
  '1.09254843 * d.x * d.y',
  '-1.09254843 * d.y * d.z',
  '0.315391565 * (2.0 * d.z * d.z - d.x * d.x - d.y * d.y)',
  '-1.09254843 * d.x * d.z',
  '0.546274215 * (d.x * d.x - d.y * d.y)',
]

/**
 * Colour as spherical harmonics, or without them as three logits of rgb: what depends on the ray alone is computed once for it.
 *
 * @param {import('./textures.js').Drawn} drawn
 */
function harmonicsSource({ channels, shading }) {
  const terms = channels / 3
  const groups = fours(channels)
  const each = (/** @type {(channel: number, color: number) => string} */ text) =>
    repeated(channels, (channel) => text(channel, Math.floor(channel / terms)))
  const range = (/** @type {number} */ channel, /** @type {number} */ first) => `uRange[${first + (channel >> 2)}][${channel & 3}]`
  const color = shading === SHADING_HARMONICS_RELU ? 'its_weight * max(0.5 + sum, 0.0)' : 'its_weight / (1.0 + exp(-sum))'
  return `
float ${each((channel) => `basis_${channel},`)}y[${terms}];
vec3 base = vec3(0.0);
void prepare_color(vec3 d) {
  ${repeated(terms, (k) => `y[${k}] = ${isHarmonic(shading) ? HARMONICS[k] : '1.0'};`)}
  ${each((channel, c) => `
  basis_${channel} = y[${channel % terms}] * ${range(channel, 1)};
  base[${c}] += y[${channel % terms}] * ${range(channel, 1 + groups)};`)}
}
vec3 add_color(vec3 at, float its_weight) {
  ${repeated(groups, (g) => `vec4 texel_${g} = textureLod(uFeatures${g}, at, 0.0);`)}
  vec3 sum = base;
  ${each((channel, c) => `sum[${c}] += texel_${channel >> 2}[${channel & 3}] * basis_${channel};`)}
  return ${color};
}
vec3 finish_color() { return vec3(0.0); }
bool is_full() { return false; }`
}

/** @param {number} n */
const fours = (n) => Math.ceil(n / 4)

/**
 * The columns of the first layer as `layersSource` meets them: of the features, then of the sines and the cosines of each frequency
 * of them, each padded to fours with columns that are not there; and of the direction.
 *
 * @param {import('./textures.js').Drawn} drawn
 * @returns {number[][]}
 */
function columnsOfInputs({ layers, channels, featureFrequencies: n }) {
  const waves = layers[0].in - 2 * n * channels
  const padded = (/** @type {(channel: number) => number} */ column) =>
    Array.from({ length: 4 * fours(channels) }, (_, c) => (c < channels ? column(c) : -1))
  const features = padded((c) => c)
  for (let k = 0; k < n; k++) {
    for (const from of [waves, waves + n * channels]) features.push(...padded((c) => from + c * n + k))
  }
  return [features, Array.from({ length: waves - channels }, (_, i) => channels + i)]
}

/**
 * Lay out the colour MLP for `layersSource`: each layer in 4x4 pieces, column by column, its bias before them. What the first layer
 * makes of the features stands in front of what it makes of the direction, each padded to fours.
 *
 * @param {import('./textures.js').Drawn} drawn
 * @returns {Float32Array} texels of four floats
 */
export function packLayers(drawn) {
  const texels = []
  for (const [i, { out, in: inputs, weight, bias }] of drawn.layers.entries()) {
    const blocks = i ? [Array.from({ length: inputs }, (_, column) => column)] : columnsOfInputs(drawn)
    const at = (/** @type {number} */ row, /** @type {number} */ column) => (row < out ? weight[row * inputs + column] : 0)
    for (let row = 0; row < 4 * fours(out); row += 4) texels.push([0, 1, 2, 3].map((r) => bias[row + r] ?? 0))
    for (const columns of blocks) {
      for (let row = 0; row < 4 * fours(out); row += 4) {
        for (let place = 0; place < 4 * fours(columns.length); place++) {
          const column = columns[place] ?? -1
          texels.push([0, 1, 2, 3].map((r) => (column < 0 ? 0 : at(row + r, column))))
        }
      }
    }
  }
  const rows = Math.max(Math.ceil(texels.length / WEIGHTS_WIDTH), 1)
  const packed = new Float32Array(4 * WEIGHTS_WIDTH * rows)
  packed.set(texels.flat())
  return packed
}

/** Samples that one reading of the colour MLP serves: reading it is what costs. */
const AT_ONCE = 4
/** Samples of a ray that wait for it; neighbouring rays fill this at different times, and are then worked on together. */
const QUEUE = 16

/**
 * A matrix of the colour MLP times the vectors of `AT_ONCE` samples, which are interleaved; two rows at once, where they are even.
 *
 * @param {{ to: string, from: string, out: number, in: number, at: number }} product
 * @param {number} n vectors
 */
function productSource({ to, from, out, in: inputs, at }, n) {
  const rows = 2 - (out % 2)
  const each = (/** @type {(s: number, r: number) => string} */ text) => repeated(rows, (r) => repeated(n, (s) => text(s, r)))
  return `
  for (int row = 0; row < ${out}; row += ${rows}) {
    ${each((s, r) => `vec4 sum_${r}_${s} = ${to}[(row + ${r}) * ${n} + ${s}];`)}
    int at = ${at} + row * ${4 * inputs};
    for (int column = 0; column < ${inputs}; column++, at += 4) {
      ${repeated(n, (s) => `vec4 v_${s} = ${from}[column * ${n} + ${s}];`)}
      ${repeated(rows, (r) => `mat4 piece_${r} = mat4(${[0, 1, 2, 3].map((i) => `weight_at(at + ${4 * inputs * r + i})`)});`)}
      ${each((s, r) => `sum_${r}_${s} += piece_${r} * v_${s};`)}
    }
    ${each((s, r) => `${to}[(row + ${r}) * ${n} + ${s}] = sum_${r}_${s};`)}
  }`
}

/**
 * Colour by the field's own MLP, for each sample. What its first layer makes of the direction is computed once for the ray.
 *
 * @param {import('./textures.js').Drawn} drawn
 */
function layersSource({ layers, channels, featureFrequencies }) {
  const groups = fours(channels)
  const ofRay = layers[0].in - channels * (1 + 2 * featureFrequencies)
  const frequencies = (ofRay - 3) / 6
  const directions = fours(ofRay)
  const inputs = groups * (1 + 2 * featureFrequencies)
  const width = Math.max(inputs, ...layers.map(({ out }) => fours(out)))
  const waves = Array.from({ length: featureFrequencies }, (_, k) => {
    const [sine, cosine] = [1 + 2 * k, 2 + 2 * k].map((block) => `b[${AT_ONCE * groups * block} + i]`)
    return `
    ${sine} = sin(b[i] * ${float(2 ** k)});
    ${cosine} = cos(b[i] * ${float(2 ** k)});`
  })
  let at = fours(layers[0].out)
  const first = { to: 'a', from: 'b', out: fours(layers[0].out), in: inputs, at }
  at += first.out * 4 * inputs
  const ofDirection = { to: 'of_ray', from: 'encoded', out: first.out, in: directions, at }
  at += first.out * 4 * directions
  const rest = layers.slice(1).map(({ out, in: before }, i) => {
    const [from, to] = i % 2 ? ['b', 'a'] : ['a', 'b']
    const bias = at
    const product = { to, from, out: fours(out), in: fours(before), at: at + fours(out) }
    at = product.at + product.out * 4 * product.in
    return `
  for (int i = 0; i < ${AT_ONCE * product.in}; i++) ${from}[i] = max(${from}[i], 0.0);
  for (int i = 0; i < ${AT_ONCE * product.out}; i++) ${to}[i] = weight_at(${bias} + i / ${AT_ONCE});${productSource(product, AT_ONCE)}`
  })
  const last = layers.length % 2 ? 'a' : 'b'
  return `
vec4 weight_at(int i) { return texelFetch(uWeights, ivec2(i & ${WEIGHTS_WIDTH - 1}, i >> 8), 0); }
vec4 of_ray[${first.out}];
vec4 queue[${QUEUE}];
int queued = 0;
bool is_prepared = false;
vec3 d;
void prepare_color(vec3 direction) { d = direction; }
void prepare() {
  vec4 encoded[${directions}];
  for (int i = 0; i < ${directions}; i++) encoded[i] = vec4(0.0);
  for (int axis = 0; axis < 3; axis++) {
    float turn = d[axis];
    encoded[0][axis] = turn;
    for (int k = 3 + axis * ${frequencies}; k < 3 + (axis + 1) * ${frequencies}; k++, turn *= 2.0) {
      int to = k + ${3 * frequencies};
      encoded[k >> 2][k & 3] = sin(turn);
      encoded[to >> 2][to & 3] = cos(turn);
    }
  }
  for (int i = 0; i < ${first.out}; i++) of_ray[i] = weight_at(i);${productSource(ofDirection, 1)}
}
vec3 colors_from(int first_due) {
  vec4 a[${AT_ONCE * width}], b[${AT_ONCE * width}];
  for (int s = 0; s < ${AT_ONCE}; s++) {
    vec3 at = queue[first_due + s].xyz;
    ${repeated(groups, (g) => `b[${AT_ONCE * g} + s] = textureLod(uFeatures${g}, at, 0.0) * uRange[${1 + g}] + uRange[${1 + groups + g}];`)}
  }${waves.length ? `\n  for (int i = 0; i < ${AT_ONCE * groups}; i++) {${waves.join('')}\n  }` : ''}
  for (int i = 0; i < ${AT_ONCE * first.out}; i++) a[i] = of_ray[i / ${AT_ONCE}];${productSource(first, AT_ONCE)}${rest.join('')}
  vec3 sum = vec3(0.0);
  for (int s = 0; s < ${AT_ONCE}; s++) sum += queue[first_due + s].w / (1.0 + exp(-${last}[s].rgb));
  return sum;
}
/* The one call of the network: a compiler that puts functions where they are called has to see it only once. */
vec3 finish_color() {
  vec3 sum = vec3(0.0);
  for (; queued > 0 && !is_prepared; is_prepared = true) prepare();
  for (int i = queued; i < ${QUEUE}; i++) queue[i] = vec4(0.0);
  for (int i = 0; i < queued; i += ${AT_ONCE}) sum += colors_from(i);
  queued = 0;
  return sum;
}
bool is_full() { return queued == ${QUEUE}; }
vec3 add_color(vec3 at, float its_weight) {
  queue[queued++] = vec4(at, its_weight);
  return vec3(0.0);
}`
}

/** @param {import('./textures.js').Drawn} drawn */
function colorSource(drawn) {
  return drawn.layers.length ? layersSource(drawn) : harmonicsSource(drawn)
}

/**
 * The share of the light that passes a step of raw density `density`.
 *
 * @param {import('./textures.js').Drawn} drawn
 */
function lightThrough({ activation, densityBias, interval }) {
  const raised = `density + ${float(densityBias)}`
  if (activation === ACTIVATION_RELU) return `exp(-${float(interval)} * max(${raised}, 0.0))`
  const softplus = `(1.0 + exp(min(${raised}, 80.0)))`
  return interval === 0.5 ? `inversesqrt${softplus}` : `pow(${softplus}, -${float(interval)})`
}

/**
 * The straight pieces of a ray through places, which are a + t b, homogeneous: of each the first sample `start`, the step `stride` in
 * cells, and the last sample. In a space without bounds w is the largest of seven functions of t; the one that grows faster and
 * first reaches it comes next, and samples go on from piece to piece.
 *
 * @param {import('./textures.js').Drawn} drawn
 * @param {string} toGrid
 */
function followSource({ lo, hi, near, stepWorld, isUnbounded }, toGrid) {
  return `
vec4 a, b;
vec3 enter, leave;
/* It begins so steep that it is below every other at once. */
vec2 upcoming = vec2(0.0, -1e12);
float until_t = 0.0, rest = 0.0;
void face(vec3 planes, float inwards) {
  vec3 rise = inwards * (b.xyz - b.w * planes) + 1e-12, at = inwards * (a.w * planes - a.xyz) / rise, is_rising = step(0.0, rise);
  enter = max(enter, mix(enter, at, is_rising));
  leave = min(leave, mix(at, leave, is_rising));
}
void meet(vec2 side) {
  float reach = (a.w - side.x) / (side.y - b.w);
  if (side.y > b.w && reach < until_t) {
    until_t = reach;
    upcoming = side;
  }
}
bool follow() {
  last = -1.0;
  ${isUnbounded ? 'while (last < 0.0 && until_t < 3e38) ' : ''}{
    float from_t = max(until_t, ${float(near)});
    until_t = 3e38;${isUnbounded ? `
    a.w = upcoming.x;
    b.w = upcoming.y;
    for (int axis = 0; axis < 3; axis++) {
      vec2 side = vec2(a[axis], b[axis]) / 2.0;
      meet(vec2(0.5, 0.0) + side);
      meet(vec2(0.5, 0.0) - side);
      meet(vec2(1.0, 0.0));
    }
    until_t = max(until_t, from_t);` : ''}
    enter = vec3(from_t);
    leave = vec3(until_t);
    face(${vec3(lo)}, 1.0);
    face(${vec3(hi)}, -1.0);
    float t0 = max(max(enter.x, enter.y), enter.z), t1 = min(min(leave.x, leave.y), leave.z), w0 = a.w + t0 * b.w, w1 = a.w + t1 * b.w;
    vec3 turn = a.w * b.xyz - b.w * a.xyz;
    float pace = length(turn) / ${float(stepWorld)}, steps = (t1 - t0) * pace / w0 / w1 - rest;
    stride = turn / pace * ${toGrid} + 1e-12;
    start = ((a + t0 * b).xyz / w0 - ${vec3(lo)}) * ${toGrid} + rest * stride;
    if (t0 <= t1 && min(w0, w1) > 0.0) {
      last = floor(steps);
      rest = last + 1.0 - steps;
    }
    k = 0.0;
    per_stride = 1.0 / stride;
    ahead = step(0.0, stride);
  }
  return last >= 0.0;
}`
}

/**
 * The fragment shader that walks the rays of a field.
 *
 * The innermost loop only looks for an occupied cell, the one around it for a sample that is seen, and the colour stands outside of
 * both: on a software renderer a frame takes a quarter less time than in one loop
 * (docs/log/viewer.md#what-does-a-frame-cost-without-a-graphics-card).
 *
 * @param {import('./textures.js').Drawn} drawn
 */
export function marchSource(drawn) {
  const sides = drawn.hi.map((value, axis) => value - drawn.lo[axis])
  const { space, isUnbounded } = drawn
  const limit = Math.ceil(((isUnbounded ? STRETCH : 1) * Math.hypot(...sides)) / drawn.stepWorld) + 8
  const floor = densityOfAlpha(drawn.alphaThreshold, drawn)
  const length = float(isHarmonic(drawn.shading) ? MAX_RUN - 1 : 0)
  return `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler3D;
precision highp usampler3D;
uniform usampler3D uBlocks;
uniform sampler3D uDensity;
${repeated(drawn.features.length, (g) => `uniform sampler3D uFeatures${g};`)}
uniform sampler2D uWeights;
uniform vec3 uCells, uOrigin, uRayStart, uRayX, uRayY, uTexel;
uniform float uShare;
uniform vec4 uRange[${1 + 2 * drawn.features.length}];
out vec4 light;
${colorSource(drawn)}
vec3 start, stride, per_stride, ahead;
float last, k;
${followSource(drawn, `uCells / ${vec3(sides)}`)}
/* The first sample after k that lies beyond one of three planes. */
float leaving(vec3 planes, float k) {
  vec3 beyond = (planes - start) * per_stride;
  return max(k + 1.0, ceil(min(min(beyond.x, beyond.y), beyond.z)));
}
void main() {
  vec3 direction = normalize(uRayStart + gl_FragCoord.x * uRayX + gl_FragCoord.y * uRayY);
  /* GLSL takes the rows of the space for columns. */
  mat4 to_place = mat4(${space ? space.map(float) : '1.0'});
  a = vec4(uOrigin, 1.0) * to_place;
  b = vec4(direction, 0.0) * to_place;
  light = vec4(0.0, 0.0, 0.0, 1.0);
  if (!follow()) return;
  ivec3 block;
  uvec4 info;
  prepare_color(direction);
  bool is_found, is_going = true;
  int n = 0;
  /* Of the samples that share a reading of colour: sum of position and of 1, times weight; their brick; the last k that joins. */
  vec4 run = vec4(0.0), next;
  uint home = 0u;
  float until = 0.0;
  while (is_going) {
    do {
      do {
        vec3 p = start;
        for (is_found = false; n < ${limit} && !is_found && (k <= last${isUnbounded ? ` || k < 3e38 && follow()` : ''}); n++) {
          p = start + k * stride;
          ivec3 cell = ivec3(clamp(p, vec3(0.0), ceil(uCells) - 1.0));
          block = cell >> ${BLOCK_BITS};
          info = texelFetch(uBlocks, block.zyx, 0);
          int bit = ((cell.x & 1) << 4) | ((cell.y & 3) << 2) | (cell.z & 3);
          is_found = info.w == 0u && (((cell.x & 2) == 0 ? info.x : info.y) >> bit & 1u) != 0u;
          vec3 far = vec3(block) + mix(vec3(1.0 - float(info.w)), vec3(info.w), ahead);
          k = is_found ? k + 1.0 : leaving(info.w == 0u ? vec3(cell) + ahead : far * ${BLOCK_CELLS}.0, k);
        }
        vec3 corner = vec3(info.z & 255u, (info.z >> 8) & 255u, info.z >> 16) * ${BRICK}.0 - vec3(block * ${BLOCK_CELLS}) + 0.5;
        vec3 at = ((p + corner) * uTexel).zyx;
        vec3 level = textureLod(uDensity, at, 0.0).rgb;
        float density = uRange[0].x * (level.r + level.b / 256.0) + mix(${float(drawn.emptyDensity)}, uRange[0].y, level.g);
        float its_weight = is_found && density > ${float(floor)} ? light.a * (1.0 - ${lightThrough(drawn)}) : 0.0;
        light.a -= its_weight;
        next = its_weight > ${float(drawn.alphaThreshold)} ? vec4(at, 1.0) * its_weight : vec4(0.0);
        if (run.w == 0.0) {
          home = info.z;
          until = k + ${length};
        }
        float total = run.w + next.w;
        bool is_near = info.z == home && k <= until;
        if (is_near || total < uShare) {
          run = is_near ? run + next : next.w > run.w ? next * total / next.w : run * total / run.w;
          next = vec4(0.0);
        }
        is_going = is_found && light.a >= ${LIGHT_LEFT};
      } while (is_going && next.w == 0.0);
      if (run.w > 0.0) light.rgb += add_color(run.xyz / run.w, run.w);
      run = next;
      home = info.z;
      until = k + ${length};
      k = is_going ? k : 3e38;
      is_going = is_going || run.w > 0.0;
    } while (is_going && !is_full());
    light.rgb += finish_color();
  }
}`
}
