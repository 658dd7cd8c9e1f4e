// The border between the matrix product (compiled once) and its kernels for quantised weights.
#pragma once

#include "packed_matrix.h"
#include "quantized_activations.h"

namespace transom {

// out[M, N] = x[M, K] @ weight[N, K]^T, x as records in tiles.
struct QuantizedProduct {
  const PackedMatrix* weight;
  const int32_t* records;
  float* out;  // first row, the matrix's first column
  int64_t out_stride;
  int64_t num_rows;
  int64_t num_tiles;

  int64_t tile_begin(int64_t tile) const { return tile * num_rows / num_tiles; }
  int64_t tile_size(int64_t tile) const { return tile_begin(tile + 1) - tile_begin(tile); }
  const int32_t* tile_records(int64_t tile, int64_t chunk) const {
    return records + (chunk * num_rows + tile_begin(tile)) * kRecordWords;
  }
  int64_t num_chunks() const { return (weight->in_features() + kQuantizedChunk - 1) / kQuantizedChunk; }
};

struct QuantizedMatmulKernels {
  int64_t tile_rows;  // at most so many rows in a tile
  // Computes the outputs of panels first .. last for all rows.
  void (*multiply)(const QuantizedProduct& product, int64_t first_panel, int64_t last_panel);
};

TRANSOM_DECLARE_PER_INTEGER_ISA(QuantizedMatmulKernels, quantized_matmul_kernels)

}  // namespace transom
