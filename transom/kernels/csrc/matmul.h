// The border between the matrix product's bindings (compiled once) and its kernels (once per instruction set).
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "packed_matrix.h"

namespace transom {

// K runs in chunks of this many; each is summed from zero.
constexpr int64_t kChunk = 256;

// out[M, N] = x[M, K] @ weight[N, K]^T + bias. Rows of x are cut into tiles, interleaved to [K][rows of the tile]:
// tile t holds rows tile_begin(t) .. tile_begin(t + 1) and lies at x + tile_begin(t) * K.
struct Product {
  const PackedMatrix* weight;
  const float* x;
  const float* bias;  // [N] or null
  float* out;
  int64_t num_rows;
  int64_t num_tiles;

  int64_t tile_begin(int64_t tile) const { return tile * num_rows / num_tiles; }
};

struct MatmulKernels {
  int64_t tile_rows;  // at most so many rows in a tile
  // Computes the outputs of panels first .. last for all rows.
  void (*multiply)(const Product& product, int64_t first_panel, int64_t last_panel);
  // out[K] = row `row` of the matrix.
  void (*copy_row)(const PackedMatrix& weight, int64_t row, float* out);
};

TRANSOM_DECLARE_PER_ISA(MatmulKernels, matmul_kernels)

}  // namespace transom
