// Rows in fixed pieces, and loops with the usual numbers of columns as constants.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "threads.hpp"

namespace vqrf {

constexpr int64_t PIECE = 4096;  // rows of one task

// Call body(first row, end) for fixed pieces of n rows.
template <class Body>
void for_pieces(const ThreadPool::Turn &turn, int64_t n, const Body &body) {
    turn.parallel_for((n + PIECE - 1) / PIECE,
                      [&](int64_t piece) { body(piece * PIECE, std::min(n, (piece + 1) * PIECE)); });
}

// Call body(columns) with the number of columns as a constant where it is a usual one: density, and 12 or 27 features.
template <class Body>
void with_columns(int64_t n, const Body &body) {
    switch (n) {
        case 1: return body(std::integral_constant<int64_t, 1>());
        case 12: return body(std::integral_constant<int64_t, 12>());
        case 27: return body(std::integral_constant<int64_t, 27>());
        default: return body(n);
    }
}

}  // namespace vqrf
