// What every path of the quantised product shares: words of activations, factors of a chunk, and the one order of float
// operations by which a block's exact sums are added to an output.
#pragma once

#include "quantized_codes.h"
#include "quantized_matmul.h"

namespace transom::TRANSOM_ISA {

// Where a tile's outputs for some panels go.
struct Target {
  float* out;  // first row, first column
  int64_t row_stride;
  int64_t columns;  // that exist, from the first on
};

inline Target target_of(const QuantizedProduct& product, int64_t tile, int64_t panel) {
  const int64_t column = panel * kPanelRows;
  return {product.out + product.tile_begin(tile) * product.out_stride + column, product.out_stride,
          product.weight->out_features() - column};
}

TRANSOM_INLINE f32x16 load_output(const Target& target, int panel, int row, bool is_first) {
  if (is_first) return zero();
  const float* out = target.out + row * target.row_stride + panel * kLanes;
  const int64_t columns = target.columns - panel * kLanes;
  return columns >= kLanes ? load(out) : load_first(out, static_cast<int>(columns));
}

TRANSOM_INLINE void store_output(const Target& target, int panel, int row, f32x16 value) {
  float* out = target.out + row * target.row_stride + panel * kLanes;
  const int64_t columns = target.columns - panel * kLanes;
  if (columns >= kLanes) {
    store(out, value);
  } else {
    store_first(out, value, static_cast<int>(columns));
  }
}

// Words of a tile's record.
template <int rows>
struct Records {
  const int32_t* words;

  TRANSOM_INLINE i32s ints(int word, int row) const { return broadcast_int(words[word * rows + row]); }
  TRANSOM_INLINE f32x16 floats(int word, int row) const {
    float value;
    std::memcpy(&value, words + word * rows + row, sizeof value);
    return broadcast(value);
  }
};

template <class C, int rows>
TRANSOM_INLINE auto start_sum(Records<rows> x, int sub_block, int row) {
  if constexpr (C::kShift == kNoShift) {
    return C::Dot::start();
  } else {
    constexpr int kStarts = C::kGroups == 4 ? kStarts16 : kStarts32;
    return C::Dot::start(x.ints(kStarts + sub_block, row), C::kShift);
  }
}

template <class C>
TRANSOM_INLINE void read_factors(const std::byte* chunk, int64_t num_blocks, Factors& factors) {
  constexpr WeightType kType = C::Part::kType;
  TRANSOM_UNROLLED
  for (int part = 0; part < kParts; ++part) C::read_scales({chunk, num_blocks, part}, factors);
  const int64_t num_scales = C::kHasScales ? 1 : num_blocks;
  for (int64_t block = 0; block < num_scales; ++block) {
    factors.block_scales[block] = half_floats<kType, C::kScaleField>(chunk, num_blocks, block);
    if constexpr (C::kHasMinimum)
      factors.block_minima[block] = half_floats<kType, C::kScaleField + 1>(chunk, num_blocks, block);
  }
}

// A block of 256 is done: its sums go to an output.
template <class C, int rows>
TRANSOM_INLINE f32x16 add_block(Records<rows> x, const Factors& factors, const i32s* sums, int row, f32x16 output) {
  const f32x16 scale = x.floats(kScale, row);
  output = fma(factors.block_scales[0] * scale, to_floats(sums), output);
  if constexpr (C::kHasMinimum) {
    constexpr int kSums = C::kMinimumPairs == 8 ? kPairSums16 : kPairSums32;
    i32s minima[kParts];
    TRANSOM_UNROLLED
    for (int part = 0; part < kParts; ++part) {
      minima[part] = no_ints();
      TRANSOM_UNROLLED
      for (int i = 0; i < C::kMinimumPairs; ++i)
        minima[part] = add_pairs(minima[part], factors.minima[part][i], x.ints(kSums + i, row));
    }
    output = fma(factors.block_minima[0] * scale, to_floats(minima), output);
  }
  return output;
}

// A block of 32 is done.
template <class C, int rows>
TRANSOM_INLINE f32x16 add_small_block(Records<rows> x, const Factors& factors, const i32s* sums, int block, int row,
                                      f32x16 output) {
  output = fma(factors.block_scales[block] * x.floats(kScales + block, row), to_floats(sums), output);
  if constexpr (C::kHasMinimum) output = fma(factors.block_minima[block], x.floats(kScaledSums + block, row), output);
  return output;
}

}  // namespace transom::TRANSOM_ISA
