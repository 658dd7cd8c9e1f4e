// Weights as the matrix product reads them: panels of 16 rows, [ceil(N / 16)][K][16], at the checkpoint's width.
#pragma once

#include <cstdint>

#include "memory.h"

namespace transom {

enum class WeightType { f32, f16, bf16 };

constexpr int64_t kPanelRows = 16;

constexpr int64_t bytes_per_weight(WeightType type) { return type == WeightType::f32 ? 4 : 2; }

class PackedMatrix {
 public:
  // All zeros. out_features (N) and in_features (K) >= 1, else std::invalid_argument; std::bad_alloc.
  PackedMatrix(int64_t out_features, int64_t in_features, WeightType type);

  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  WeightType type() const { return type_; }
  int64_t num_panels() const { return (out_features_ + kPanelRows - 1) / kPanelRows; }
  int64_t num_bytes() const { return num_panels() * panel_bytes(); }
  int64_t panel_bytes() const { return in_features_ * kPanelRows * bytes_per_weight(type_); }
  const std::byte* panel(int64_t index) const { return memory_.get() + index * panel_bytes(); }

  // Packs rows [num_rows][K], of any alignment, as rows first_row .. first_row + num_rows; these must exist. Runs on
  // all threads. Not while a product reads the matrix.
  void fill(int64_t first_row, const std::byte* rows, int64_t num_rows);

 private:
  int64_t out_features_;
  int64_t in_features_;
  WeightType type_;
  HugeMemory memory_;
};

}  // namespace transom
