// The colour MLP on batches of samples, forward and backward. Included by hot.cpp per instruction set.
//
//   layer 0   z = V[ray] + F input          V[ray] = W_view encoding + b, computed once per ray: the samples of a ray share it;
//                                           input: what the sample's features give, themselves and any frequencies of them
//   middle    z = b + W relu(z)
//   last      rgb = sigmoid(b + W relu(z))
//
// Hidden layers are as wide as the widest of them, padded with zeros: such a unit puts out 0 and has no gradient.
// Layer 0 and the output's gradient run in float; the wide products run in units (bfloat16 pairs where the CPU has them).
// Weight gradients always accumulate in float.
#pragma once

#include <algorithm>
#include <vector>

#include "isa.hpp"
#include "kernels.hpp"

namespace vqrf::VQRF_ISA {

constexpr int FEATURE_PAD = 16;  // columns of products whose other side is the features or the three colours

struct Mlp {
    int channels = 0, n_inputs = 0, padded_inputs = 0, width = 0, n_view = 0, n_middle = 0;
    std::vector<float> feature_weight;  // [n_inputs][W]
    std::vector<float> view_weight;     // [n_view][W]
    std::vector<float> bias0;           // [W]
    std::vector<unit> feature_back;     // [W / PAIR][padded n_inputs]
    std::vector<unit> forward[MAX_LAYERS], back[MAX_LAYERS];  // middle layers, [W / PAIR][W]
    std::vector<float> middle_bias[MAX_LAYERS];                 // [W]
    std::vector<unit> last;       // [W / PAIR][FEATURE_PAD]
    std::vector<float> last_rows; // [3][W]
    float last_bias[FEATURE_PAD] = {};

    // A [rows=out][columns=in] matrix as units for a product over `in`: unit (k, out) holds inputs PAIR*k and on. What lies
    // beyond the matrix, up to `width` inputs and `ldb` outputs, is zero.
    void pack(std::vector<unit> &to, int depth, int columns, int ldb, const float *from, int64_t k_stride,
              int64_t column_stride) const {
        to.assign(static_cast<size_t>(units()) * ldb, unit{});
        for (int k = 0; k < depth; ++k)
            for (int c = 0; c < columns; ++c) {
                const act value = to_act(from[k * k_stride + c * column_stride]);
                std::memcpy(reinterpret_cast<char *>(&to[static_cast<size_t>(k / PAIR) * ldb + c]) + (k % PAIR) * sizeof(act),
                            &value, sizeof(act));
            }
    }

    void prepare(const VolumeView &v) {
        channels = v.channels, n_inputs = v.n_inputs(), width = v.width, n_view = v.n_view;
        padded_inputs = round_up(n_inputs, FEATURE_PAD);
        n_middle = v.n_layers - 2;
        const int in = n_inputs + n_view, top = v.n_layers - 1, last_side = v.sides[top - 1];
        feature_weight.assign(static_cast<size_t>(n_inputs) * width, 0);
        view_weight.assign(static_cast<size_t>(n_view) * width, 0);
        for (int w = 0; w < v.sides[0]; ++w) {
            for (int c = 0; c < n_inputs; ++c) feature_weight[c * width + w] = v.weight[0][w * in + column(c)];
            for (int c = 0; c < n_view; ++c) view_weight[c * width + w] = v.weight[0][w * in + channels + c];
        }
        pad(bias0, v.bias[0], v.sides[0]);
        pack(feature_back, width, n_inputs, padded_inputs, feature_weight.data(), 1, width);
        for (int m = 0; m < n_middle; ++m) {
            const int from = v.sides[m], to = v.sides[m + 1];
            pack(forward[m], from, to, width, v.weight[m + 1], 1, from);
            pack(back[m], to, from, width, v.weight[m + 1], from, 1);
            pad(middle_bias[m], v.bias[m + 1], to);
        }
        pack(last, last_side, 3, FEATURE_PAD, v.weight[top], 1, last_side);
        last_rows.assign(3 * static_cast<size_t>(width), 0);
        for (int c = 0; c < 3; ++c) {
            std::copy_n(v.weight[top] + c * last_side, last_side, &last_rows[static_cast<size_t>(c) * width]);
            last_bias[c] = v.bias[top][c];
        }
    }

    void pad(std::vector<float> &to, const float *from, int n) const {
        to.assign(width, 0);
        std::copy_n(from, n, to.begin());
    }

    int units() const { return width / PAIR; }

    // The column of layer 0 that input `c` meets: the view lies between the features and their frequencies.
    int column(int c) const { return c < channels ? c : c + n_view; }

    // The part of layer 0 that the samples of one ray share, [W], from the ray's view encoding.
    void view_part(const float *encoding, float *out) const {
        for (int w = 0; w < width; w += LANES) {
            vf sum = load(&bias0[w]);
            for (int c = 0; c < n_view; ++c) sum += encoding[c] * load(&view_weight[c * width + w]);
            store(out + w, sum);
        }
    }
};

// Activations of a batch: `rows` samples, each hidden layer [rows][W] in `act`. Rows are padded to TILE_ROWS with zeros.
struct Activations {
    std::vector<act> hidden[MAX_LAYERS];
    std::vector<float> logits;  // [rows][FEATURE_PAD]

    void resize(const Mlp &mlp, int rows) {
        const size_t padded = round_up(rows, TILE_ROWS);
        for (int m = 0; m <= mlp.n_middle; ++m)
            if (hidden[m].size() < padded * mlp.width) hidden[m].resize(padded * mlp.width);
        if (logits.size() < padded * FEATURE_PAD) logits.resize(padded * FEATURE_PAD);
    }
};

static inline const unit *as_units(const act *p) { return reinterpret_cast<const unit *>(p); }

// features [n][n_inputs] with room for n in whole tiles, view_of[n] index into view parts [.][W]; fills `a` and rgb [n][3].
static void mlp_forward(const Mlp &mlp, const float *features, const int32_t *view_of, const float *view_parts, int n,
                        Activations &a, float *rgb) {
    a.resize(mlp, n);
    const int W = mlp.width, C = mlp.n_inputs;
    [[maybe_unused]] const Tiles tiles;
    for (int begin = 0; begin < n; begin += BATCH_ROWS) {
        const int rows = lesser(n - begin, BATCH_ROWS), padded = round_up(rows, TILE_ROWS);
        act *first = &a.hidden[0][static_cast<size_t>(begin) * W];
        product<TILE_ROWS>(
            features + static_cast<size_t>(begin) * C, C, 1, mlp.feature_weight.data(), W, C, padded, W,
            [&](int row, int column) {
                return row < rows ? load(view_parts + static_cast<size_t>(view_of[begin + row]) * W + column) : vf{};
            },
            [&](int row, int column, vf z) { store_act(first + row * W + column, row < rows ? relu(z) : vf{}); });
        for (int m = 0; m < mlp.n_middle; ++m) {
            const float *bias = mlp.middle_bias[m].data();
            act *out = &a.hidden[m + 1][static_cast<size_t>(begin) * W];
            product<TILE_ROWS>(
                as_units(&a.hidden[m][static_cast<size_t>(begin) * W]), mlp.units(), 1, mlp.forward[m].data(), W, mlp.units(),
                padded, W, [&](int, int column) { return load(bias + column); },
                [&](int row, int column, vf z) { store_act(out + row * W + column, relu(z)); });
        }
        float *logits = &a.logits[static_cast<size_t>(begin) * FEATURE_PAD];
        product<TILE_ROWS>(
            as_units(&a.hidden[mlp.n_middle][static_cast<size_t>(begin) * W]), mlp.units(), 1, mlp.last.data(), FEATURE_PAD,
            mlp.units(), padded, FEATURE_PAD, [&](int, int column) { return load(mlp.last_bias + column); },
            [&](int row, int column, vf z) { store(logits + row * FEATURE_PAD + column, z); });
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < 3; ++c)
                rgb[(begin + r) * 3 + c] = 1 / (1 + std::exp(-logits[r * FEATURE_PAD + c]));
    }
}

// Float accumulators of the weight gradients of one slot.
struct MlpGradients {
    std::vector<float> feature;  // [W][padded n_inputs]
    std::vector<float> view;     // [W][MAX_VIEW]
    std::vector<float> bias0;
    std::vector<float> middle[MAX_LAYERS], middle_bias[MAX_LAYERS];
    std::vector<float> last;  // [3][W]
    float last_bias[3];

    void clear(const Mlp &mlp) {
        const int W = mlp.width;
        feature.assign(static_cast<size_t>(W) * mlp.padded_inputs, 0);
        view.assign(static_cast<size_t>(W) * MAX_VIEW, 0);
        bias0.assign(W, 0);
        for (int m = 0; m < mlp.n_middle; ++m) {
            middle[m].assign(static_cast<size_t>(W) * W, 0);
            middle_bias[m].assign(W, 0);
        }
        last.assign(3 * static_cast<size_t>(W), 0);
        for (float &b : last_bias) b = 0;
    }

    // Add to the caller's gradients, in the layout of the weights, which have no padding.
    void add_to(const Mlp &mlp, const int *sides, const GradientView &to) const {
        const int W = mlp.width, in = mlp.n_inputs + mlp.n_view, top = mlp.n_middle + 1;
        for (int w = 0; w < sides[0]; ++w) {
            for (int c = 0; c < mlp.n_inputs; ++c) to.weight[0][w * in + mlp.column(c)] += feature[w * mlp.padded_inputs + c];
            for (int c = 0; c < mlp.n_view; ++c) to.weight[0][w * in + mlp.channels + c] += view[w * MAX_VIEW + c];
            to.bias[0][w] += bias0[w];
        }
        for (int m = 0; m < mlp.n_middle; ++m) {
            const int n_in = sides[m], n_out = sides[m + 1];
            for (int w = 0; w < n_out; ++w) {
                for (int c = 0; c < n_in; ++c) to.weight[m + 1][w * n_in + c] += middle[m][static_cast<size_t>(w) * W + c];
                to.bias[m + 1][w] += middle_bias[m][w];
            }
        }
        const int n_in = sides[top - 1];
        for (int c = 0; c < 3; ++c) {
            for (int w = 0; w < n_in; ++w) to.weight[top][c * n_in + w] += last[static_cast<size_t>(c) * W + w];
            to.bias[top][c] += last_bias[c];
        }
    }
};

// Rows 2k and 2k+1 of a [rows][W] matrix side by side as units: the layout of a product over samples.
static inline const unit *interleave(const act *from, int rows, int W, std::vector<unit> &buffer) {
    if constexpr (PAIR == 1) {
        return as_units(from);
    } else {
        buffer.resize(static_cast<size_t>(rows / 2) * W);
        for (int r = 0; r < rows / 2; ++r) {
            const act *even = from + static_cast<size_t>(2 * r) * W, *odd = even + W;
            unit *to = &buffer[static_cast<size_t>(r) * W];
            for (int w = 0; w < W; ++w)
                to[w] = static_cast<unit>(static_cast<uint32_t>(even[w]) | (static_cast<uint32_t>(odd[w]) << 16));
        }
        return buffer.data();
    }
}

// The units of samples that pair up, as the left side of a product over samples: where rows and pairs are.
struct Turned {
    const unit *units;
    int64_t row, pair;
};

static inline Turned turn(const act *from, int rows, int W, std::vector<unit> &buffer) {
#if defined(VQRF_AMX)
    const int pairs = rows / 2;  // whole tiles of them, as `rows` is a multiple of TILE_ROWS
    buffer.resize(static_cast<size_t>(W) * pairs);
    for (int pair = 0; pair < pairs; pair += TILE_SIDE)
        for (int w = 0; w < W; w += TILE_SIDE) {
            __m512i block[TILE_SIDE];
            for (int i = 0; i < TILE_SIDE; ++i) {
                const act *even = from + static_cast<size_t>(2 * (pair + i)) * W + w;
                block[i] = _mm512_or_si512(widened(even), _mm512_slli_epi32(widened(even + W), 16));
            }
            transpose(block);
            for (int i = 0; i < TILE_SIDE; ++i) _mm512_storeu_si512(&buffer[static_cast<size_t>(w + i) * pairs + pair], block[i]);
        }
    return {buffer.data(), pairs, 1};
#else
    return {interleave(from, rows, W, buffer), 1, W};
#endif
}

struct BackwardScratch {
    std::vector<act> delta[2];
    std::vector<unit> left, right;
    std::vector<act> features;
};

// Gradient of the columns sum of delta rows.
static inline void add_rows(const act *delta, int rows, int W, float *to) {
    for (int w = 0; w < W; w += LANES) {
        vf sum = load(to + w);
        for (int r = 0; r < rows; ++r) sum += load_act(delta + static_cast<size_t>(r) * W + w);
        store(to + w, sum);
    }
}

// rgb_gradient [n][3] with respect to the colours; adds to `g`, to view_gradients [.][W], writes feature_gradient [n][n_inputs].
static void mlp_backward(const Mlp &mlp, const Activations &a, const float *features, const int32_t *view_of, const float *rgb,
                         const float *rgb_gradient, int n, BackwardScratch &s, MlpGradients &g, float *view_gradients,
                         float *feature_gradient) {
    const int W = mlp.width, C = mlp.n_inputs;
    [[maybe_unused]] const Tiles tiles;
    for (auto &d : s.delta) d.resize(static_cast<size_t>(BATCH_ROWS) * W);
    for (int begin = 0; begin < n; begin += BATCH_ROWS) {
        const int rows = lesser(n - begin, BATCH_ROWS), padded = round_up(rows, TILE_ROWS);
        const act *top = &a.hidden[mlp.n_middle][static_cast<size_t>(begin) * W];
        act *delta = s.delta[0].data(), *next = s.delta[1].data();
        float out[BATCH_ROWS][3];
        for (int r = 0; r < padded; ++r)
            for (int c = 0; c < 3; ++c) {
                const int i = (begin + r) * 3 + c;
                out[r][c] = r < rows ? rgb_gradient[i] * rgb[i] * (1 - rgb[i]) : 0.0f;
                g.last_bias[c] += out[r][c];
            }
        for (int w = 0; w < W; w += LANES) {
            const vf w0 = load(&mlp.last_rows[w]), w1 = load(&mlp.last_rows[W + w]), w2 = load(&mlp.last_rows[2 * W + w]);
            vf g0 = load(&g.last[w]), g1 = load(&g.last[W + w]), g2 = load(&g.last[2 * W + w]);
            for (int r = 0; r < padded; ++r) {
                const vf h = load_act(top + r * W + w);
                g0 += out[r][0] * h, g1 += out[r][1] * h, g2 += out[r][2] * h;
                const vf d = out[r][0] * w0 + out[r][1] * w1 + out[r][2] * w2;
                store_act(delta + r * W + w, h > 0.0f ? d : vf{});
            }
            store(&g.last[w], g0), store(&g.last[W + w], g1), store(&g.last[2 * W + w], g2);
        }
        for (int m = mlp.n_middle - 1; m >= 0; --m) {
            const act *below = &a.hidden[m][static_cast<size_t>(begin) * W];
            add_rows(delta, padded, W, g.middle_bias[m].data());
            const Turned left = turn(delta, padded, W, s.left);
            const unit *right = interleave(below, padded, W, s.right);
            float *weight = g.middle[m].data();
            product<4>(
                left.units, left.row, left.pair, right, W, padded / PAIR, W, W, [&](int row, int column) { return load(weight + row * W + column); },
                [&](int row, int column, vf z) { store(weight + row * W + column, z); });
            product<TILE_ROWS>(
                as_units(delta), mlp.units(), 1, mlp.back[m].data(), W, mlp.units(), padded, W,
                [&](int, int) { return vf{}; },
                [&](int row, int column, vf z) {
                    store_act(next + row * W + column, load_act(below + row * W + column) > 0.0f ? z : vf{});
                });
            std::swap(delta, next);
        }
        for (int r = 0; r < rows; ++r) {
            float *view = view_gradients + static_cast<size_t>(view_of[begin + r]) * W;
            for (int w = 0; w < W; w += LANES) store(view + w, load(view + w) + load_act(delta + r * W + w));
        }
        s.features.assign(static_cast<size_t>(padded) * mlp.padded_inputs, act{});
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < C; ++c)
                s.features[static_cast<size_t>(r) * mlp.padded_inputs + c] = to_act(features[static_cast<size_t>(begin + r) * C + c]);
        const Turned left = turn(delta, padded, W, s.left);
        const unit *right = interleave(s.features.data(), padded, mlp.padded_inputs, s.right);
        float *weight = g.feature.data();
        const int P = mlp.padded_inputs;
        product<4>(
            left.units, left.row, left.pair, right, P, padded / PAIR, W, P, [&](int row, int column) { return load(weight + row * P + column); },
            [&](int row, int column, vf z) { store(weight + row * P + column, z); });
        product<TILE_ROWS>(
            as_units(delta), mlp.units(), 1, mlp.feature_back.data(), P, mlp.units(), padded, P, [&](int, int) { return vf{}; },
            [&](int row, int column, vf z) {
                if (row >= rows) return;
                float *to = feature_gradient + static_cast<size_t>(begin + row) * C;
                for (int lane = 0; lane < LANES && column + lane < C; ++lane) to[column + lane] = z[lane];
            });
    }
}

// The view part's share of layer 0: gradients [W][n_view] += view_gradient [W] x encoding [n_view], and the bias.
static inline void view_backward(const Mlp &mlp, const float *view_gradient, const float *encoding, MlpGradients &g) {
    for (int w = 0; w < mlp.width; ++w) {
        const float d = view_gradient[w];
        if (d == 0) continue;
        g.bias0[w] += d;
        float *row = &g.view[static_cast<size_t>(w) * MAX_VIEW];
        for (int c = 0; c < mlp.n_view; ++c) row[c] += d * encoding[c];
    }
}

}  // namespace vqrf::VQRF_ISA
