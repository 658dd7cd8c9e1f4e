// The border between `quantize`'s bindings (compiled once) and its code (once per instruction set).
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace transom {

// blocks[count][elements of a block] -> out[count][bytes of a block]. All elements are below kMaxMagnitude.
using QuantizeBlocks = void (*)(const float* blocks, int64_t count, uint8_t* out);

struct QuantizeKernels {
  // Whether every element is a number of a magnitude below kMaxMagnitude.
  bool (*can_quantize)(const float* x, int64_t count);
  QuantizeBlocks q8_0, q4_0;
};

struct QuantizeSuperblockKernels {
  QuantizeBlocks q4_k, q5_k, q6_k;
};

constexpr float kMaxMagnitude = 262144.0f;  // beyond, the scales of some type would not fit their 16 bits

TRANSOM_DECLARE_PER_ISA(QuantizeKernels, quantize_kernels)
TRANSOM_DECLARE_PER_ISA(QuantizeSuperblockKernels, quantize_superblock_kernels)

}  // namespace transom
