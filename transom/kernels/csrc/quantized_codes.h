// How the product reads each quantised type's chunk of a panel: codes, integer scales and minima, float scales.
//
// A chunk is read in strips, a strip in steps; a step loads a vector of packed codes (and their high bits) and gives
// kVectors vectors of four codes per row, which belong to kBlocks sub-blocks. A sub-block, of kGroups words of four
// weights, shares an integer scale (kHasScales) or is a whole block with a float scale.
#pragma once

#include "dequantize.h"
#include "packed_matrix.h"
#include "quantized_activations.h"
#include "quantized_simd.h"

namespace transom::TRANSOM_ISA {

constexpr int kNoShift = -1;

// One part (16 / kParts rows) of a chunk.
template <WeightType type>
struct ChunkPart {
  static constexpr WeightType kType = type;

  const std::byte* chunk;
  int64_t num_blocks;
  int part;

  // Word `index` of a field, of each row.
  template <int field>
  TRANSOM_INLINE i32s word(int index) const {
    return load_ints(chunk + field_offset<type>(field, num_blocks) + index * 64 + part * kIntLanes * 4);
  }
};

template <WeightType type, int field>
TRANSOM_INLINE f32x16 half_floats(const std::byte* chunk, int64_t num_blocks, int64_t block) {
  return load_f16(reinterpret_cast<const uint16_t*>(chunk + field_offset<type>(field, num_blocks)) + block * 16);
}

TRANSOM_INLINE i32s all_bytes(int byte) { return broadcast_int(static_cast<int32_t>(0x01010101u * byte)); }
TRANSOM_INLINE i32s low_nibbles(i32s a) { return a & all_bytes(15); }
TRANSOM_INLINE i32s high_nibbles(i32s a) { return shift_right(a, 4) & all_bytes(15); }
// The bits `mask` of each byte, after a shift to the right (or, if negative, to the left).
TRANSOM_INLINE i32s bits_at(i32s a, int shift, int mask) {
  return (shift >= 0 ? shift_right(a, shift) : shift_left(a, -shift)) & all_bytes(mask);
}

// The scales of a chunk, ready to be multiplied with.
struct Factors {
  i32s scales[kParts][16];
  i32s minima[kParts][8];  // pairs as in kPairSums16 and kPairSums32
  f32x16 block_scales[8];
  f32x16 block_minima[8];
};

// Bytes of four sub-blocks to four scales.
template <class Dot>
TRANSOM_INLINE void split_scales(i32s bytes, i32s* scales) {
  TRANSOM_UNROLLED
  for (int i = 0; i < 4; ++i) scales[i] = Dot::scale_of_byte(bytes, i);
}
// Bytes (unsigned) of four sub-blocks to two pairs: 0 and 2, 1 and 3.
TRANSOM_INLINE void split_pairs(i32s bytes, i32s* pairs) {
  pairs[0] = bytes & broadcast_int(0x00ff00ff);
  pairs[1] = shift_right(bytes, 8) & broadcast_int(0x00ff00ff);
}

template <WeightType type>
struct Codes;

// ---- blocks of 32: a strip is a block ----

template <WeightType type>
struct BlocksOf32 {
  using Part = ChunkPart<type>;
  static constexpr bool kHasScales = false;
  static constexpr int kMinimumPairs = 0;
  static constexpr int kMaxStrips = 8;

  static TRANSOM_INLINE void read_scales(const Part&, Factors&) {}
};

template <>
struct Codes<WeightType::q8_0> : BlocksOf32<WeightType::q8_0> {
  using Dot = SignedDot;
  static constexpr int kGroups = 8, kSteps = 8, kVectors = 1, kBlocks = 1, kShift = 7;
  static constexpr bool kHasMinimum = false;
  static constexpr int kScaleField = 1;

  static constexpr int group(int strip, int step, int) { return 8 * strip + step; }
  static constexpr int sub_block(int strip, int) { return strip; }
  static TRANSOM_INLINE void read(const Part& part, int strip, int step, i32s* codes) {
    codes[0] = Dot::to_operand(part.word<0>(8 * strip + step));
  }
};

template <WeightType type>
struct NibblesOf32 : BlocksOf32<type> {
  static constexpr int kSteps = 4, kVectors = 2;
  static constexpr int group(int strip, int step, int vector) { return 8 * strip + 4 * vector + step; }
};

template <WeightType type>
struct FourBitsOf32 : NibblesOf32<type> {
  using Dot = UnsignedDot;
  static constexpr int kGroups = 8, kBlocks = 1;
  static constexpr int kScaleField = 1;
  static constexpr int sub_block(int strip, int) { return strip; }
  static TRANSOM_INLINE void read(const ChunkPart<type>& part, int strip, int step, i32s* codes) {
    const i32s packed = part.template word<0>(4 * strip + step);
    codes[0] = low_nibbles(packed);
    codes[1] = high_nibbles(packed);
  }
};

template <>
struct Codes<WeightType::q4_0> : FourBitsOf32<WeightType::q4_0> {
  static constexpr int kShift = 3;
  static constexpr bool kHasMinimum = false;
};

template <>
struct Codes<WeightType::q4_1> : FourBitsOf32<WeightType::q4_1> {
  static constexpr int kShift = kNoShift;
  static constexpr bool kHasMinimum = true;
};

template <>
struct Codes<WeightType::iq4_nl> : NibblesOf32<WeightType::iq4_nl> {
  using Dot = SignedDot;
  static constexpr int kGroups = 8, kBlocks = 1, kShift = 7;
  static constexpr bool kHasMinimum = false;
  static constexpr int kScaleField = 1;
  static constexpr int sub_block(int strip, int) { return strip; }
  static TRANSOM_INLINE void read(const Part& part, int strip, int step, i32s* codes) {
    const i32s packed = part.word<0>(4 * strip + step);
    codes[0] = Dot::to_operand(look_up(kCodebook, low_nibbles(packed)));
    codes[1] = Dot::to_operand(look_up(kCodebook, high_nibbles(packed)));
  }
};

// Sixteen products of 31 * 127 would not fit 16 bits, eight do: each vector is a sub-block of its own.
template <WeightType type>
struct FiveBitsOf32 : NibblesOf32<type> {
  using Dot = UnsignedDot;
  static constexpr int kGroups = 4, kBlocks = 2;
  static constexpr int kScaleField = 2;
  static constexpr int sub_block(int strip, int block) { return 2 * strip + block; }
  static TRANSOM_INLINE void read(const ChunkPart<type>& part, int strip, int step, i32s* codes) {
    const i32s packed = part.template word<0>(4 * strip + step);
    const i32s fifth = part.template word<1>(strip);
    codes[0] = low_nibbles(packed) | bits_at(fifth, step - 4, 16);
    codes[1] = high_nibbles(packed) | bits_at(fifth, step, 16);
  }
};

template <>
struct Codes<WeightType::q5_0> : FiveBitsOf32<WeightType::q5_0> {
  static constexpr int kShift = 4;
  static constexpr bool kHasMinimum = false;
};

template <>
struct Codes<WeightType::q5_1> : FiveBitsOf32<WeightType::q5_1> {
  static constexpr int kShift = kNoShift;
  static constexpr bool kHasMinimum = true;
};

// ---- blocks of 256: a chunk is a block ----

template <WeightType type>
struct BlockOf256 {
  using Part = ChunkPart<type>;
  static constexpr bool kHasScales = true;
};

// Sixteen sub-blocks of 16; a step gives words of four of them, 32 weights apart.
template <WeightType type>
struct FourApart : BlockOf256<type> {
  using Dot = UnsignedDot;
  static constexpr int kGroups = 4, kMaxStrips = 4, kSteps = 4, kVectors = 4, kBlocks = 4;
  static constexpr int group(int strip, int step, int vector) {
    return strip / 2 * 32 + 8 * vector + word(strip, step);
  }
  static constexpr int sub_block(int strip, int block) { return strip / 2 * 8 + 2 * block + strip % 2; }
  static constexpr int word(int strip, int step) { return strip % 2 * 4 + step; }
};

template <>
struct Codes<WeightType::q2_k> : FourApart<WeightType::q2_k> {
  static constexpr int kShift = kNoShift, kMinimumPairs = 8, kScaleField = 2;
  static constexpr bool kHasMinimum = true;

  static TRANSOM_INLINE void read(const Part& part, int strip, int step, i32s* codes) {
    const i32s packed = part.word<0>(strip / 2 * 8 + word(strip, step));
    TRANSOM_UNROLLED
    for (int i = 0; i < 4; ++i) codes[i] = bits_at(packed, 2 * i, 3);
  }
  static TRANSOM_INLINE void read_scales(const Part& part, Factors& factors) {
    TRANSOM_UNROLLED
    for (int i = 0; i < 4; ++i) {
      const i32s both = part.word<1>(i);
      split_scales<Dot>(low_nibbles(both), factors.scales[part.part] + 4 * i);
      split_pairs(high_nibbles(both), factors.minima[part.part] + 2 * i);
    }
  }
};

template <>
struct Codes<WeightType::q3_k> : FourApart<WeightType::q3_k> {
  static constexpr int kShift = 2, kMinimumPairs = 0, kScaleField = 3;
  static constexpr bool kHasMinimum = false;

  static TRANSOM_INLINE void read(const Part& part, int strip, int step, i32s* codes) {
    const i32s low = part.word<0>(strip / 2 * 8 + word(strip, step));
    const i32s high = part.word<1>(word(strip, step));
    const int first_bit = strip / 2 * 4 - 2;
    TRANSOM_UNROLLED
    for (int i = 0; i < 4; ++i) codes[i] = bits_at(low, 2 * i, 3) | bits_at(high, first_bit + i, 4);
  }
  static TRANSOM_INLINE void read_scales(const Part& part, Factors& factors) {
    const i32s high = part.word<2>(2);
    TRANSOM_UNROLLED
    for (int i = 0; i < 4; ++i) {
      const i32s low = i < 2 ? low_nibbles(part.word<2>(i)) : high_nibbles(part.word<2>(i - 2));
      const i32s bytes = subtract_bytes(low | bits_at(high, 2 * i - 4, 48), all_bytes(32));
      split_scales<Dot>(bytes, factors.scales[part.part] + 4 * i);
    }
  }
};

template <>
struct Codes<WeightType::q6_k> : FourApart<WeightType::q6_k> {
  static constexpr int kShift = 5, kMinimumPairs = 0, kScaleField = 3;
  static constexpr bool kHasMinimum = false;

  static TRANSOM_INLINE void read(const Part& part, int strip, int step, i32s* codes) {
    const i32s low = part.word<0>(strip / 2 * 16 + word(strip, step));
    const i32s next = part.word<0>(strip / 2 * 16 + 8 + word(strip, step));
    const i32s high = part.word<1>(strip / 2 * 8 + word(strip, step));
    codes[0] = low_nibbles(low) | bits_at(high, -4, 48);
    codes[1] = low_nibbles(next) | bits_at(high, -2, 48);
    codes[2] = high_nibbles(low) | bits_at(high, 0, 48);
    codes[3] = high_nibbles(next) | bits_at(high, 2, 48);
  }
  static TRANSOM_INLINE void read_scales(const Part& part, Factors& factors) {
    TRANSOM_UNROLLED
    for (int i = 0; i < 4; ++i) split_scales<Dot>(part.word<2>(i), factors.scales[part.part] + 4 * i);
  }
};

// Bytes of the eight 6-bit scales and minima of q4_k and q5_k: four sub-blocks in each word.
struct SixBits {
  i32s scales[2], minima[2];
};

TRANSOM_INLINE SixBits six_bits(i32s a, i32s b, i32s c) {
  return {{a & all_bytes(63), low_nibbles(c) | bits_at(a, 2, 48)},
          {b & all_bytes(63), high_nibbles(c) | bits_at(b, 2, 48)}};
}

template <>
struct Codes<WeightType::q4_k> : BlockOf256<WeightType::q4_k> {
  using Dot = UnsignedDot;
  static constexpr int kGroups = 8, kMaxStrips = 4, kSteps = 8, kVectors = 2, kBlocks = 2;
  static constexpr int kShift = kNoShift, kMinimumPairs = 4, kScaleField = 2;
  static constexpr bool kHasMinimum = true;

  static constexpr int group(int strip, int step, int vector) { return 16 * strip + 8 * vector + step; }
  static constexpr int sub_block(int strip, int block) { return 2 * strip + block; }
  static TRANSOM_INLINE void read(const Part& part, int strip, int step, i32s* codes) {
    const i32s packed = part.word<0>(8 * strip + step);
    codes[0] = low_nibbles(packed);
    codes[1] = high_nibbles(packed);
  }
  static TRANSOM_INLINE void read_scales(const Part& part, Factors& factors) {
    const SixBits bytes = six_bits(part.word<1>(0), part.word<1>(1), part.word<1>(2));
    TRANSOM_UNROLLED
    for (int i = 0; i < 2; ++i) {
      split_scales<Dot>(bytes.scales[i], factors.scales[part.part] + 4 * i);
      split_pairs(bytes.minima[i], factors.minima[part.part] + 2 * i);
    }
  }
};

// As with q5_0, a sub-block of 32 is two of 16 with the same scale.
template <>
struct Codes<WeightType::q5_k> : BlockOf256<WeightType::q5_k> {
  using Dot = UnsignedDot;
  static constexpr int kGroups = 4, kMaxStrips = 8, kSteps = 4, kVectors = 2, kBlocks = 2;
  static constexpr int kShift = kNoShift, kMinimumPairs = 4, kScaleField = 3;
  static constexpr bool kHasMinimum = true;

  static constexpr int word(int strip, int step) { return strip % 2 * 4 + step; }
  static constexpr int group(int strip, int step, int vector) {
    return strip / 2 * 16 + 8 * vector + word(strip, step);
  }
  static constexpr int sub_block(int strip, int block) { return strip / 2 * 4 + 2 * block + strip % 2; }
  static TRANSOM_INLINE void read(const Part& part, int strip, int step, i32s* codes) {
    const i32s packed = part.word<0>(strip / 2 * 8 + word(strip, step));
    const i32s fifth = part.word<1>(word(strip, step));
    codes[0] = low_nibbles(packed) | bits_at(fifth, strip / 2 * 2 - 4, 16);
    codes[1] = high_nibbles(packed) | bits_at(fifth, strip / 2 * 2 - 3, 16);
  }
  static TRANSOM_INLINE void read_scales(const Part& part, Factors& factors) {
    const SixBits bytes = six_bits(part.word<2>(0), part.word<2>(1), part.word<2>(2));
    TRANSOM_UNROLLED
    for (int i = 0; i < 8; ++i) {
      const i32s scale = Dot::scale_of_byte(bytes.scales[i / 4], i % 4);
      factors.scales[part.part][2 * i] = factors.scales[part.part][2 * i + 1] = scale;
    }
    TRANSOM_UNROLLED
    for (int i = 0; i < 2; ++i) split_pairs(bytes.minima[i], factors.minima[part.part] + 2 * i);
  }
};

template <>
struct Codes<WeightType::iq4_xs> : BlockOf256<WeightType::iq4_xs> {
  using Dot = SignedDot;
  static constexpr int kGroups = 8, kMaxStrips = 8, kSteps = 4, kVectors = 2, kBlocks = 1;
  static constexpr int kShift = 7, kMinimumPairs = 0, kScaleField = 2;
  static constexpr bool kHasMinimum = false;

  static constexpr int group(int strip, int step, int vector) { return 8 * strip + 4 * vector + step; }
  static constexpr int sub_block(int strip, int) { return strip; }
  static TRANSOM_INLINE void read(const Part& part, int strip, int step, i32s* codes) {
    const i32s packed = part.word<0>(4 * strip + step);
    codes[0] = Dot::to_operand(look_up(kCodebook, low_nibbles(packed)));
    codes[1] = Dot::to_operand(look_up(kCodebook, high_nibbles(packed)));
  }
  // A half word of pairs of high bits, four bytes of two nibbles: both in the order of the sub-blocks.
  static TRANSOM_INLINE void read_scales(const Part& part, Factors& factors) {
    const i32s low = part.word<1>(0);
    const i32s high = widen_halves(part.chunk + field_offset<WeightType::iq4_xs>(3, 1) + part.part * kIntLanes * 2);
    TRANSOM_UNROLLED
    for (int i = 0; i < 8; ++i) {
      const i32s unsigned_scale =
          (shift_right(low, 4 * i) & broadcast_int(15)) | shift_left(shift_right(high, 2 * i) & broadcast_int(3), 4);
      factors.scales[part.part][i] = unsigned_scale + broadcast_int(-32);
    }
  }
};

}  // namespace transom::TRANSOM_ISA
