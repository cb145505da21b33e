// Works every kernel hard while a sanitizer watches (see sanitize.sh): the baseline's, those of VQRF_BEST and those that are
// compiled once, on random volumes, with 1 and with 3 threads, which must give the same bits; then two threads at once.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"
#if defined(VQRF_AMX)
#include "tiles.hpp"
#endif

namespace {

using namespace vqrf;

void expect(bool condition, const std::string &what) {
    if (condition) return;
    std::fprintf(stderr, "sanitize: %s\n", what.c_str());
    std::exit(1);
}

constexpr int X = 23, Y = 18, Z = 29, VOXELS = X * Y * Z, VIEW = 27, N_ROWS = 50, N_RAYS = 1500, N_CODES = 37;

std::mt19937 generator(1);

void set_threads(int n) { ThreadPool::Turn().set_threads(n); }

std::vector<float> normals(size_t n, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(n);
    for (float &value : values) value = normal(generator);
    return values;
}

// How far, in blocks, every block is from the nearest one with an occupied cell: the reference's `measure_skip`.
std::vector<uint8_t> skip_by_hand(const std::vector<uint8_t> &cells, const int *blocks) {
    std::vector<std::array<int, 3>> occupied;
    for (int x = 0; x < X - 1; ++x)
        for (int y = 0; y < Y - 1; ++y)
            for (int z = 0; z < Z - 1; ++z)
                if (cells[(x * (Y - 1) + y) * (Z - 1) + z])
                    occupied.push_back({x >> SKIP_BLOCK_LOG2, y >> SKIP_BLOCK_LOG2, z >> SKIP_BLOCK_LOG2});
    std::vector<uint8_t> skip;
    for (int x = 0; x < blocks[0]; ++x)
        for (int y = 0; y < blocks[1]; ++y)
            for (int z = 0; z < blocks[2]; ++z) {
                int nearest = 255;
                for (const auto &o : occupied)
                    nearest = std::min(nearest, std::max({std::abs(o[0] - x), std::abs(o[1] - y), std::abs(o[2] - z)}));
                skip.push_back(static_cast<uint8_t>(nearest));
            }
    return skip;
}

// The arrays of factors, or of their gradients: three planes, three lines, the mix.
struct FactorStore {
    std::vector<std::vector<float>> arrays;
    FactorView view{};
    FactorGradientView gradients{};

    FactorStore(int n_density, int n_features, int channels, float scale) {
        const int shape[3] = {X, Y, Z}, rank = n_density + n_features;
        for (const auto &axes : PLANE_AXES) arrays.push_back(normals(static_cast<size_t>(shape[axes[0]]) * shape[axes[1]] * rank, scale));
        for (const auto &axes : PLANE_AXES) arrays.push_back(normals(static_cast<size_t>(shape[axes[2]]) * rank, scale));
        arrays.push_back(normals(static_cast<size_t>(3) * n_features * channels, scale));
        view.n_density = n_density, view.n_features = n_features, view.channels = channels;
        view.mix = gradients.mix = arrays[6].data();
        for (int p = 0; p < 3; ++p) {
            view.shape[p] = shape[p];
            view.plane[p] = gradients.plane[p] = arrays[p].data(), view.line[p] = gradients.line[p] = arrays[3 + p].data();
        }
    }
};

// A random volume that owns its arrays. `n_middle` -1: no colour MLP, the features are rgb logits or harmonics. `frequencies`: of the
// features.
struct Scene {
    VolumeView view{};
    std::vector<float> density, features, origins, directions, targets;
    std::vector<int32_t> rows;
    std::vector<uint8_t> cells, skip;
    std::vector<std::vector<float>> layers;
    std::unique_ptr<FactorStore> factors;

    Scene(int channels, int n_middle, int width, bool has_rows, int frequencies = 0)
        : density(normals(VOXELS, 3)), features(normals(static_cast<size_t>(has_rows ? N_ROWS : VOXELS) * channels, 1)) {
        for (int voxel = 0; voxel < VOXELS; ++voxel)
            if (has_rows) rows.push_back(std::max(static_cast<int32_t>(generator() % (N_ROWS + 20)) - 20, -1));
        for (int x = 0; x < X - 1; ++x)
            for (int y = 0; y < Y - 1; ++y)
                for (int z = 0; z < Z - 1; ++z)  // the outermost cells on every side, and a core
                    cells.push_back((x > 7 && x < 15 && y > 4 && y < 11 && z > 9 && z < 21) || generator() % 41 == 0 ||
                                    (z == Z - 2 && x == X - 2));
        int shape[3] = {X, Y, Z};
        for (int axis = 0; axis < 3; ++axis) {
            view.lo[axis] = -1, view.hi[axis] = 1, view.shape[axis] = shape[axis], view.background[axis] = 0.5f;
            view.blocks[axis] = static_cast<int>(count_blocks(shape[axis] - 1));
        }
        skip = skip_by_hand(cells, view.blocks);
        view.density_bias = -1, view.interval = 0.5f, view.step = 0.04f, view.near = 0.2f, view.alpha_threshold = 1e-4f;
        view.relu_density = view.relu_color = channels == 27 && has_rows;  // Plenoxels under compression
        view.density_floor = -8, view.channels = channels, view.n_rows = has_rows ? N_ROWS : 0;
        view.feature_frequencies = frequencies;
        set_layers(n_middle, width);
        make_rays();
        view.density = density.data(), view.features = features.data(), view.rows = has_rows ? rows.data() : nullptr;
        view.cells = cells.data(), view.skip = skip.data();
    }

    // The same with factors in the place of density and features.
    Scene &&factored(int n_density, int n_features) && {
        factors = std::make_unique<FactorStore>(n_density, n_features, view.channels, 1.0f);
        view.factors = factors->view, view.density = view.features = nullptr;
        return std::move(*this);
    }

    // The same in a space that is no box, the last row of whose map is given.
    Scene &&in_space(SpaceKind kind, const std::array<double, 4> &last) && {
        view.space_kind = kind;
        for (int row = 0; row < 3; ++row) view.space[row][row] = 1;
        std::copy(last.begin(), last.end(), view.space[3]);
        return std::move(*this);
    }

    int n_in(int layer) const { return layer == 0 ? view.n_inputs() + VIEW : view.sides[layer - 1]; }

    RayView rays() const { return {origins.data(), directions.data(), N_RAYS}; }

  private:
    void set_layers(int n_middle, int width) {
        view.n_layers = n_middle < 0 ? 0 : n_middle + 2, view.n_view = n_middle < 0 ? 0 : VIEW;
        view.width = (width + WIDTH_UNIT - 1) / WIDTH_UNIT * WIDTH_UNIT;
        for (int layer = 0; layer < view.n_layers; ++layer) {
            view.sides[layer] = layer + 1 == view.n_layers ? 3 : layer % 2 ? (width + 1) / 2 : width;
            layers.push_back(normals(static_cast<size_t>(view.sides[layer]) * n_in(layer), 0.3f));
            layers.push_back(normals(view.sides[layer], 0.3f));
        }
        for (int layer = 0; layer < view.n_layers; ++layer)
            view.weight[layer] = layers[2 * layer].data(), view.bias[layer] = layers[2 * layer + 1].data();
    }

    // From outside and inside; some stand still along an axis, some miss.
    void make_rays() {
        origins = normals(3 * N_RAYS, 1.5f), directions = normals(3 * N_RAYS, 1), targets = normals(4 * N_RAYS, 0.2f);
        for (int ray = 0; ray < N_RAYS; ++ray) {
            float *d = &directions[3 * ray];
            if (ray % 4) {
                for (int axis = 0; axis < 3; ++axis) d[axis] = 0.4f * d[axis] - origins[3 * ray + axis];
            }
            if (ray % 8 == 0) d[ray % 3] = 0;
            const float length = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
            for (int axis = 0; axis < 3; ++axis) d[axis] /= length;
        }
    }
};

// Every number that the kernels answer with, one after the other.
struct Answers {
    std::vector<float> floats;
    std::vector<double> doubles;

    void add(const std::vector<float> &values) { floats.insert(floats.end(), values.begin(), values.end()); }
    bool operator==(const Answers &other) const = default;
};

void run_rays(const Kernels &kernels, const Scene &scene, Answers &answers) {
    std::vector<float> rgb(3 * N_RAYS), background(N_RAYS), depth(N_RAYS);
    kernels.render(scene.view, scene.rays(), rgb.data(), background.data(), depth.data());
    std::vector<double> importance(VOXELS);
    std::vector<uint8_t> counted(VOXELS);
    for (int voxel = 0; voxel < VOXELS; ++voxel) counted[voxel] = voxel % 3 != 0;
    for (const uint8_t *mask : {static_cast<const uint8_t *>(nullptr), static_cast<const uint8_t *>(counted.data())})
        kernels.importance(scene.view, scene.rays(), mask, importance.data());
    std::vector<uint8_t> hit(N_RAYS);
    kernels.hits(scene.view, scene.rays(), hit.data());
    answers.add(rgb), answers.add(background), answers.add(depth);
    answers.doubles.insert(answers.doubles.end(), importance.begin(), importance.end());
    answers.doubles.insert(answers.doubles.end(), hit.begin(), hit.end());
}

void run_step(const Kernels &kernels, const Scene &scene, Answers &answers) {
    const VolumeView &v = scene.view;
    std::vector<float> density(VOXELS), features(static_cast<size_t>(VOXELS) * v.channels);
    std::vector<uint8_t> touched(VOXELS);
    std::vector<std::vector<float>> layers;
    for (const auto &layer : scene.layers) layers.emplace_back(layer.size());
    GradientView to{};
    std::unique_ptr<FactorStore> of_factors;
    to.density = density.data(), to.features = features.data(), to.touched = touched.data();
    if (v.is_factored()) {
        of_factors = std::make_unique<FactorStore>(v.factors.n_density, v.factors.n_features, v.channels, 0.0f);
        touched.assign(X * Y + X * Z + Y * Z, 0);
        to = {nullptr, nullptr, {}, {}, touched.data(), of_factors->gradients};
    }
    for (int layer = 0; layer < v.n_layers; ++layer)
        to.weight[layer] = layers[2 * layer].data(), to.bias[layer] = layers[2 * layer + 1].data();
    const BatchStats stats = kernels.gradients(v, scene.rays(), {scene.targets.data(), 4, 0.1f, 0.1f, 0.1f, 0.1f, 0.01, nullptr, 0, nullptr}, to);
    expect(stats.live > N_RAYS && stats.shaded > 0, "the rays meet nothing: this proves nothing");
    answers.doubles.insert(answers.doubles.end(), {stats.squared_error, stats.background_entropy, stats.point_color, stats.distortion});
    std::vector<float> weights(N_RAYS);
    for (int ray = 0; ray < N_RAYS; ++ray) weights[ray] = static_cast<float>(ray % 3) / 2;
    const std::vector<float> chances(weights.size(), 0.5f);
    kernels.gradients(v, scene.rays(), {scene.targets.data(), 4, 0.1f, 0.1f, 0.1f, 0.1f, 0.01, weights.data(), 0.1f, chances.data()}, to);
    kernels.backpropagate(v, scene.rays(), {scene.origins.data(), weights.data(), scene.targets.data()}, to);
    kernels.backpropagate(v, scene.rays(), {scene.origins.data(), nullptr, nullptr}, to);
    answers.add(density), answers.add(features);
    for (const auto &layer : layers) answers.add(layer);
    if (v.is_factored()) {
        for (const auto &array : of_factors->arrays) answers.add(array);
        answers.doubles.insert(answers.doubles.end(), touched.begin(), touched.end());
        return;
    }

    std::vector<float> values(features.size(), 1), first(features.size()), second(features.size()), rates(VOXELS, 0.1f);
    AdamView adam{values.data(), features.data(), first.data(), second.data(), touched.data(), rates.data(), VOXELS,
                  v.channels,    1,               1e-15f,       0.9f,          0.99f,          0.1f,         0.01f};
    kernels.adam(adam);
    adam.touched = nullptr, adam.rates = nullptr;
    kernels.adam(adam);
    answers.add(values), answers.add(first), answers.add(second);
}

void run_codes(const Kernels &kernels, const Scene &scene, Answers &answers) {
    const int64_t n = static_cast<int64_t>(scene.features.size()) / scene.view.channels - 1;
    std::vector<int32_t> codes(n);
    std::vector<float> distances(n);
    kernels.assign(scene.features.data() + scene.view.channels, n, scene.view.channels, scene.features.data(), N_CODES,
                   codes.data(), distances.data());
    answers.add(distances);
    answers.doubles.insert(answers.doubles.end(), codes.begin(), codes.end());
}

// Factors of the lattice with some voxels marked.
void run_factors(const Kernels &kernels, int n_density, int n_features, int channels, Answers &answers) {
    const FactorStore factors(n_density, n_features, channels, 1.0f);
    std::vector<uint8_t> marks(VOXELS);
    for (int voxel = 0; voxel < VOXELS; ++voxel) marks[voxel] = voxel % 7 == 0 || voxel % 1000 > 900;
    std::vector<float> density(VOXELS), features(static_cast<size_t>(VOXELS) * channels), alone(VOXELS);
    kernels.expand_factors(factors.view, marks.data(), density.data(), features.data());
    kernels.expand_factors(factors.view, marks.data(), alone.data(), nullptr);
    expect(alone == density, "the density depends on whether features are wanted");
    answers.add(density), answers.add(features);
}

// Pixels of two views, and what lattices, rows and levels are put through.
void run_views(Answers &answers) {
    constexpr int N = 9000;
    const std::vector<int64_t> starts{0, 300, 900}, widths{20, 30};
    std::vector<int64_t> pixels(N);
    for (int64_t &pixel : pixels) pixel = static_cast<int64_t>(generator() % 900);
    const std::vector<double> pinholes{30, 31, 10, 7.5, 40, 41, 15, 10};
    std::vector<double> poses(24);
    for (double &entry : poses) entry = std::sin(static_cast<double>(&entry - poses.data()) + 1);
    std::vector<float> origins(3 * N), directions(3 * N);
    pixel_rays({pixels.data(), N, 2, starts.data(), widths.data(), pinholes.data(), poses.data()}, origins.data(), directions.data());
    answers.add(origins), answers.add(directions);
}

void run_lattice(const Scene &scene, Answers &answers) {
    const int64_t shape[3] = {X, Y, Z}, cell_shape[3] = {X - 1, Y - 1, Z - 1};
    std::vector<uint8_t> cells(scene.cells.size()), skip(scene.skip.size()), touched(VOXELS);
    for (uint8_t &mark : touched) mark = generator() % 3 == 0;
    for (const uint8_t *allowed : {static_cast<const uint8_t *>(nullptr), scene.cells.data()}) {
        find_cells(scene.density.data(), shape, 1, allowed, cells.data());
        answers.doubles.insert(answers.doubles.end(), cells.begin(), cells.end());
    }
    measure_skip(scene.cells.data(), cell_shape, skip.data());
    expect(skip == scene.skip, "measure_skip differs from its definition");
    const std::vector<float> values = normals(static_cast<size_t>(VOXELS) * 5, 1);
    for (const uint8_t *mask : {static_cast<const uint8_t *>(nullptr), static_cast<const uint8_t *>(touched.data())}) {
        std::vector<float> gradient(values.size());
        add_total_variation(values.data(), shape, 5, mask, 0.1f, gradient.data());
        answers.add(gradient);
    }
}

void run_rows(int columns, Answers &answers) {
    constexpr int64_t N = 9001, M = 800;
    const size_t n_fine = static_cast<size_t>(N) * columns, n_coarse = static_cast<size_t>(M) * columns;
    std::vector<float> fine = normals(n_fine, 1), coarse = normals(n_coarse, 1), sum = coarse, raised = fine, rounded(n_fine);
    std::vector<double> weights(N, 0.5), sums(n_coarse), totals(M);
    std::vector<int32_t> codes(N), parents(N_PARENTS * N), first(M + 1), child(N);
    std::vector<uint8_t> touched(N), bits(n_fine);
    std::vector<int64_t> voxels(N - 1);
    for (int64_t i = 0; i < N; ++i) codes[i] = static_cast<int32_t>(generator() % M), touched[i] = i % 3 == 0, child[i] = i % N;
    for (int32_t &parent : parents) parent = static_cast<int32_t>(generator() % M);
    for (uint8_t &b : bits) b = static_cast<uint8_t>(generator());
    for (int64_t i = 0; i <= M; ++i) first[i] = static_cast<int32_t>(N * i / M);
    for (int64_t i = 0; i + 1 < N; ++i) voxels[i] = N - 1 - i;
    const std::vector<float> shares(N, 0.125f), steps(columns, 0.1f), matrix = normals(static_cast<size_t>(columns) * columns, 1);
    sum_by_code({fine.data(), N, columns}, weights.data(), codes.data(), {sums.data(), M, columns}, totals.data());
    raise_level({raised.data(), N, columns}, {coarse.data(), M, columns}, parents.data());
    lower_gradient({fine.data(), N, columns}, {sum.data(), M, columns}, {first.data(), child.data(), shares.data(), N});
    round_to_steps({fine.data(), N, columns}, steps.data(), 0.1, rounded.data());
    add_rate_gradient({fine.data(), N, columns}, steps.data(), bits.data(), 0.3f, raised.data());
    answers.add(raised), answers.add(sum), answers.add(rounded);
    for (const float *turn : {static_cast<const float *>(nullptr), matrix.data()}) {
        std::vector<float> gradient = fine, moved(n_fine - columns);
        move_gradients({gradient.data(), N, columns}, voxels.data(), touched.data(), turn, {moved.data(), N - 1, columns});
        tie_gradients({gradient.data(), N, columns}, codes.data(), touched.data(), {sum.data(), M, columns});
        answers.add(moved), answers.add(gradient), answers.add(sum);
    }
    std::vector<float> table(n_fine), taken(n_fine - columns);
    place_rows({fine.data(), N - 1, columns}, steps.data(), voxels.data(), {table.data(), N, columns});
    answers.add(table);
    take_rows({table.data(), N, columns}, steps.data(), voxels.data(), {taken.data(), N - 1, columns});
    answers.add(table), answers.add(taken);
    for (const uint8_t *marks : {static_cast<const uint8_t *>(nullptr), static_cast<const uint8_t *>(touched.data())}) {
        add_sparsity({fine.data(), N, columns}, (columns + 1) / 2, marks, 0.1f, raised.data());
        answers.add(raised);
    }
    answers.doubles.insert(answers.doubles.end(), sums.begin(), sums.end());
}

// What is compiled once and not for each instruction set.
void run_images(Answers &answers) {
    for (int height : {11, 75, 140}) {
        constexpr int WIDTH = 17, CHANNELS = 3;
        const std::vector<float> a = normals(height * WIDTH * CHANNELS, 0.3f), b = normals(height * WIDTH * CHANNELS, 0.3f);
        answers.doubles.push_back(measure_ssim(ImagePair<float>{a.data(), b.data(), height, WIDTH, CHANNELS}));
        const std::vector<double> c(a.begin(), a.end()), d(b.begin(), b.end());
        answers.doubles.push_back(measure_ssim(ImagePair<double>{c.data(), d.data(), height, WIDTH, CHANNELS}));
    }
}

Answers run_others(const Scene &scene) {
    Answers answers;
    run_views(answers), run_images(answers);
    run_lattice(scene, answers);
    for (int columns : {1, 5, 12, 27}) run_rows(columns, answers);
    return answers;
}

void check_others() {
    const Scene scene(3, -1, 0, false);
    Answers answers[2];
    const std::mt19937 before = generator;
    for (int i = 0; i < 2; ++i) {
        generator = before;
        set_threads(i ? 3 : 1);
        answers[i] = run_others(scene);
    }
    expect(answers[0] == answers[1], "results depend on the number of threads");
}

// Two callers, as two Python threads are, and a third that changes the number of threads: whoever comes second waits.
void check_two_callers(const Kernels &kernels) {
    const Scene scene(12, 1, 64, false);
    const auto run = [&] {
        Answers answers;
        run_rays(kernels, scene, answers);
        run_step(kernels, scene, answers);
        run_codes(kernels, scene, answers);
        return answers;
    };
    const Answers expected = run();
    std::vector<uint8_t> cells(scene.cells.size()), found(cells.size());
    const int64_t shape[3] = {X, Y, Z};
    find_cells(scene.density.data(), shape, 1, nullptr, cells.data());
    bool is_same = true;
    std::thread other([&] {
        for (int i = 0; i < 300; ++i) {
            find_cells(scene.density.data(), shape, 1, nullptr, found.data());
            is_same = is_same && found == cells;
            if (i % 100 == 99) set_threads(2 + i % 2);
        }
    });
    for (int i = 0; i < 3; ++i) expect(run() == expected, "two callers at once disturb each other");
    other.join();
    expect(is_same, "two callers at once disturb each other");
    std::printf("kernels %s: two callers at once are right\n", kernels.name);
}

void check_kernels(const Kernels &kernels) {
    const Scene scenes[] = {Scene(27, 1, 32, false, 2).factored(16, 48), Scene(5, 1, 16, false).factored(3, 7),
                            Scene(12, 1, 64, false).in_space(SpaceKind::FRONT, {0.1, 0, -0.3, 1.2}),
                            Scene(12, 1, 64, false).in_space(SpaceKind::UNBOUNDED, {0, 0, 0, 1}),
                            Scene(5, 1, 16, false).factored(3, 7).in_space(SpaceKind::UNBOUNDED, {0, 0, 0, 1}),
                            Scene(3, -1, 0, false).factored(1, 128), {3, -1, 0, false}, {12, -1, 0, true},  {27, -1, 0, false}, {27, -1, 0, true},
                            {4, 0, 16, true},  {12, 1, 64, false}, {12, 2, 48, true}, {5, 1, 16, false},
                            {27, 1, 32, false, 2}, {3, 0, 16, true, 10},   {12, 2, 134, false}, {4, 3, 1, true}};
    for (const Scene &scene : scenes) {
        Answers answers[2];
        for (int i = 0; i < 2; ++i) {
            set_threads(i ? 3 : 1);
            run_rays(kernels, scene, answers[i]);
            run_step(kernels, scene, answers[i]);
            if (!scene.factors) run_codes(kernels, scene, answers[i]);
        }
        expect(answers[0] == answers[1], std::string(kernels.name) + ": results depend on the number of threads");
    }
    const int sizes[][3] = {{3, 7, 5}, {16, 32, 12}, {16, 48, 27}, {1, 128, 64}};
    for (const auto &size : sizes) {
        Answers answers[2];
        const std::mt19937 before = generator;
        for (int i = 0; i < 2; ++i) {
            generator = before;
            set_threads(i ? 3 : 1);
            run_factors(kernels, size[0], size[1], size[2], answers[i]);
        }
        expect(answers[0] == answers[1], std::string(kernels.name) + ": factors depend on the number of threads");
    }
    std::printf("kernels %s: the same with 1 and 3 threads\n", kernels.name);
}

}  // namespace

int main() {
    check_others();
    check_kernels(kernels_baseline);
    check_two_callers(kernels_baseline);
#if defined(VQRF_BEST)
#if defined(VQRF_AMX)
    expect(may_use_tiles(), "no tile registers are given");
#endif
    check_kernels(VQRF_BEST);
    check_two_callers(VQRF_BEST);
#endif
}
