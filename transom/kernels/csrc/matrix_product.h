// Products of one activation matrix with several weight matrices, shared out to all threads.
#pragma once

#include <cstdint>
#include <vector>

#include "packed_matrix.h"

namespace transom {

// out[num_rows, N] = x[num_rows, K] @ the weights' rows, one matrix after the other, + bias[N] (or null). The matrices
// share K, N is the sum of their rows, and they may be of different types. Each row's result depends on that row alone.
// Takes no memory but buffers for 252 rows, which the calling thread keeps. Without the GIL.
void multiply_matrices(const std::vector<const PackedMatrix*>& weights, const float* x, int64_t num_rows,
                       const float* bias, float* out);

// out[K] = row `row` of the matrix as floats.
void copy_matrix_row(const PackedMatrix& weight, int64_t row, float* out);

}  // namespace transom
