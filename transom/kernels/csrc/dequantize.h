// ggml's quantised blocks to float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "weight_type.h"

namespace transom {

// A row of blocks, of any alignment -> out[in_features]. The same bits as ggml's own: one rounding for each of scale *
// sub-scale, times the code, minus or plus the minimum. A scale of infinity or NaN gives what float32 arithmetic gives.
void dequantize_row(WeightType type, int64_t in_features, const std::byte* row, float* out);

// ggml's codebook of 4-bit codes (IQ4_NL, IQ4_XS).
constexpr int8_t kCodebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

}  // namespace transom
