// Weights as the matrix product reads them: panels of 16 rows at the checkpoint's width. Floats lie as
// [ceil(N / 16)][K][16], quantised weights as `quantized_layout.h` says.
#pragma once

#include <cstdint>

#include "memory.h"
#include "quantized_layout.h"
#include "weight_type.h"

namespace transom {

// Throws std::invalid_argument unless in_features is a multiple of the type's block size.
void check_in_features(WeightType type, int64_t in_features);

// What a PackedMatrix of this shape takes, without making one; throws as its constructor does.
int64_t packed_bytes(int64_t out_features, int64_t in_features, WeightType type);

class PackedMatrix {
 public:
  // All zeros. out_features (N) and in_features (K) >= 1, K a multiple of the type's block size, else
  // std::invalid_argument; std::bad_alloc.
  PackedMatrix(int64_t out_features, int64_t in_features, WeightType type);

  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  WeightType type() const { return type_; }
  int64_t num_panels() const { return (out_features_ + kPanelRows - 1) / kPanelRows; }
  int64_t num_bytes() const { return num_panels() * panel_bytes_; }
  int64_t panel_bytes() const { return panel_bytes_; }
  const std::byte* panel(int64_t index) const { return memory_.get() + index * panel_bytes_; }

  // Packs rows [num_rows][row_bytes], of any alignment, as rows first_row .. first_row + num_rows; these must exist.
  // Runs on all threads. Not while a product reads the matrix.
  void fill(int64_t first_row, const std::byte* rows, int64_t num_rows);

 private:
  int64_t out_features_;
  int64_t in_features_;
  WeightType type_;
  int64_t panel_bytes_;
  HugeMemory memory_;
};

}  // namespace transom
