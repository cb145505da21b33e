// How alike two images are, in one pass. Twin: src/vqrf/kernels/similarity.py.
//
// Rows are blurred as they come and wait in a ring for the ten that follow, so that nothing of an image's size is made.
// Determinism: bands of rows are fixed, and their sums are added in order.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

namespace vqrf {
namespace {

constexpr int WINDOW = SSIM_WINDOW, MIDDLE = WINDOW / 2, MOMENTS = 4;  // of a and b: means, squares together, product
constexpr int64_t BAND = 64;                                           // rows of windows in a task

struct Shares {
    double of[MIDDLE + 1];  // of the middle, and of what is so far from it

    Shares() {
        double sum = 0;
        for (int k = -MIDDLE; k <= MIDDLE; ++k) sum += std::exp(-0.5 * k * k / (SSIM_SIGMA * SSIM_SIGMA));
        for (int k = 0; k <= MIDDLE; ++k) of[k] = std::exp(-0.5 * k * k / (SSIM_SIGMA * SSIM_SIGMA)) / sum;
    }
};

// to[i] = the mean around at[MIDDLE * apart + i]: the window's ends together, as it is symmetric.
void blur_row(const Shares &shares, const double *__restrict at, int64_t apart, int64_t n, double *__restrict to) {
    const double *middle = at + MIDDLE * apart;
    for (int64_t i = 0; i < n; ++i) {
        double sum = shares.of[0] * middle[i];
        for (int k = 1; k <= MIDDLE; ++k) sum += shares.of[k] * (middle[i - k * apart] + middle[i + k * apart]);
        to[i] = sum;
    }
}

// What a task keeps of the rows that it has seen.
class Ring {
public:
    Ring(int64_t row, int64_t channels) : row_(row), channels_(channels), n_(row - (WINDOW - 1) * channels),
          moments_(static_cast<size_t>(MOMENTS * row)), blurred_(static_cast<size_t>(WINDOW * MOMENTS * n_)) {}

    // Take in row number y.
    template <class T>
    void add(const T *a, const T *b, int64_t y) {
        double *__restrict m = moments_.data();
        for (int64_t i = 0; i < row_; ++i) {
            const double p = a[i], q = b[i];
            m[i] = p, m[row_ + i] = q, m[2 * row_ + i] = p * p + q * q, m[3 * row_ + i] = p * q;
        }
        for (int k = 0; k < MOMENTS; ++k) blur_row(shares_, m + k * row_, channels_, n_, at(y) + k * n_);
    }

    // The sum of the similarities of the windows whose last row is y.
    double sum_windows(int64_t y) {
        const double *rows[WINDOW];
        for (int k = 0; k < WINDOW; ++k) rows[k] = at(y + 1 + k);  // the oldest first
        constexpr double c1 = SSIM_K1 * SSIM_K1, c2 = SSIM_K2 * SSIM_K2;
        double *__restrict mean = moments_.data();
        for (int64_t i = 0; i < MOMENTS * n_; ++i) {
            double sum = shares_.of[0] * rows[MIDDLE][i];
            for (int k = 1; k <= MIDDLE; ++k) sum += shares_.of[k] * (rows[MIDDLE - k][i] + rows[MIDDLE + k][i]);
            mean[i] = sum;
        }
        double total = 0;
        for (int64_t i = 0; i < n_; ++i) {
            const double a = mean[i], b = mean[n_ + i], squares = a * a + b * b, product = a * b;
            mean[i] = (2 * product + c1) * (2 * (mean[3 * n_ + i] - product) + c2) /
                      ((squares + c1) * (mean[2 * n_ + i] - squares + c2));
        }
        for (int64_t i = 0; i < n_; ++i) total += mean[i];
        return total;
    }

private:
    double *at(int64_t y) { return blurred_.data() + y % WINDOW * MOMENTS * n_; }

    Shares shares_;
    int64_t row_, channels_, n_;
    std::vector<double> moments_, blurred_;
};

}  // namespace

template <class T>
double measure_ssim(const ImagePair<T> &images) {
    const int64_t row = images.width * images.channels, n_windows = images.height - WINDOW + 1;
    std::vector<double> sums(static_cast<size_t>((n_windows + BAND - 1) / BAND));
    const ThreadPool::Turn turn;
    turn.parallel_for(static_cast<int64_t>(sums.size()), [&](int64_t band) {
        const int64_t begin = band * BAND, end = std::min(n_windows, begin + BAND) + WINDOW - 1;
        Ring ring(row, images.channels);
        for (int64_t y = begin; y < end; ++y) {
            ring.add(images.a + y * row, images.b + y * row, y);
            if (y - begin >= WINDOW - 1) sums[static_cast<size_t>(band)] += ring.sum_windows(y);
        }
    });
    double total = 0;
    for (const double sum : sums) total += sum;
    return total / static_cast<double>(n_windows * (row - (WINDOW - 1) * images.channels));
}

template double measure_ssim(const ImagePair<float> &);
template double measure_ssim(const ImagePair<double> &);

}  // namespace vqrf
