// Activations as quantised products read them: int8 codes with one scale for each group of 256 or of 32.
//
// A record holds one row's chunk of 256, as 32-bit words; records of the rows of a tile are interleaved,
// [chunk][tile][word][row of the tile], so that one word of all rows lies together.
#pragma once

#include <cstdint>

#include "dispatch.h"
#include "weight_type.h"

namespace transom {

// What one scale is for: weights in blocks of 256 meet groups of 256, weights in blocks of 32 groups of 32.
enum class Grouping { by_256, by_32 };

constexpr Grouping grouping_of(WeightType type) {
  return facts_of(type).block_size == 256 ? Grouping::by_256 : Grouping::by_32;
}

// Word offsets in a record. Sums are of the codes of 16 or 32 consecutive activations, and all negative.
constexpr int kCodeWords = 0;    // [64] four codes each
constexpr int kStarts16 = 64;    // [16] sums of 16, as sums of products start with them
constexpr int kStarts32 = 80;    // [8] of 32
constexpr int kPairSums16 = 88;  // by_256: [8] pairs of int16: of the groups 4 i and 4 i + 2, then 4 i + 1 and 4 i + 3
constexpr int kPairSums32 = 96;  // by_256: [4] the same of 32
constexpr int kScale = 100;      // by_256: float
constexpr int kScales = 88;      // by_32: [8] floats
constexpr int kScaledSums = 96;  // by_32: [8] floats, the scale times the (positive) sum
constexpr int kRecordWords = 104;

struct ActivationKernels {
  // rows[num_rows][stride], of which in_features are used, -> for each chunk [word][row], chunks chunk_stride words
  // apart. A group with an infinity or NaN gets the scale NaN; one of vanishing numbers (below 2^-126 * 127) is zero.
  void (*quantize_tile)(const float* rows, int64_t num_rows, int64_t in_features, Grouping grouping, int32_t* records,
                        int64_t chunk_stride);
};

TRANSOM_DECLARE_PER_INTEGER_ISA(ActivationKernels, activation_kernels)

}  // namespace transom
