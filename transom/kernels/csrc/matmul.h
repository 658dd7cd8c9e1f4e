// The border between the matrix product (compiled once) and its kernels for floats (once per instruction set).
#pragma once

#include <algorithm>
#include <cstdint>

#include "dispatch.h"
#include "packed_matrix.h"

namespace transom {

// K runs in chunks of this many; each is summed from zero.
constexpr int64_t kChunk = 256;

// out[M, N] = x[M, K] @ weight[N, K]^T. Rows of x are cut into tiles, K into chunks, and x is copied into the order in
// which it is read: [chunk][tile][k within the chunk][row within the tile].
struct Product {
  const PackedMatrix* weight;
  const float* x;
  float* out;  // first row, the matrix's first column
  int64_t out_stride;
  int64_t num_rows;
  int64_t num_tiles;

  int64_t tile_begin(int64_t tile) const { return tile * num_rows / num_tiles; }
  int64_t chunk_depth(int64_t k) const { return std::min(kChunk, weight->in_features() - k); }
  // Where the chunk that begins at k has the tile's part of x.
  int64_t x_offset(int64_t tile, int64_t k) const { return k * num_rows + tile_begin(tile) * chunk_depth(k); }
};

struct MatmulKernels {
  int64_t tile_rows;  // at most so many rows in a tile
  // Computes the outputs of panels first .. last for all rows.
  void (*multiply)(const Product& product, int64_t first_panel, int64_t last_panel);
  // out[K] = row `row` of a matrix of floats.
  void (*copy_row)(const PackedMatrix& weight, int64_t row, float* out);
};

TRANSOM_DECLARE_PER_ISA(MatmulKernels, matmul_kernels)

}  // namespace transom
