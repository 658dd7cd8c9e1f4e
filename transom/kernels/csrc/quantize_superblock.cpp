// From floats to superblocks of 256: q4_k, q5_k, q6_k. The specification is `reference_quantize.py`.
//
// A lane is a sub-block: sixteen of them are turned so that element i of all lies in one vector. Nothing is ever summed
// across lanes, so the bits are the same whatever the instruction set, and whichever superblocks share a vector.
#include <algorithm>

#include "quantize.h"
#include "simd.h"

namespace transom::TRANSOM_ISA {
namespace {

constexpr int kSuperblock = 256;
constexpr float kTiny = 1e-20f;
constexpr float kCandidates[] = {-2.0f, -1.8f, -1.6f, -1.4f, -1.2f, -1.0f, -0.8f, -0.6f,
                                 -0.4f, -0.2f, 0.0f,  0.2f,  0.4f,  0.6f,  0.8f};
constexpr float kNeighbours[] = {0.0f, -1.0f, 1.0f};

// Lanes of `yes` where a < b, else of `no`.
inline f32x16 select_less(f32x16 a, f32x16 b, f32x16 yes, f32x16 no) {
#if defined(__AVX512F__)
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
#elif defined(__AVX2__)
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
#else
  return map([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
#endif
}

inline f32x16 absolute(f32x16 x) { return max(x, zero() - x); }
inline f32x16 positive(f32x16 x) { return select_less(zero(), x, x, zero()); }
inline f32x16 clip(f32x16 x, float low, float high) { return min(max(x, broadcast(low)), broadcast(high)); }

inline f32x16 square_root(f32x16 x) {
  float lanes[kLanes];
  store(lanes, x);
  for (float& lane : lanes) lane = std::sqrt(lane);
  return load(lanes);
}

inline f32x16 rounded_to_f16(f32x16 x) {
  uint16_t halves[kLanes];
  store_f16(halves, x);
  return load_f16(halves);
}

// 0 where the scale is 0. Others are at least the least half float, or larger than kTiny.
inline f32x16 reciprocal(f32x16 scale) {
  const f32x16 inverse = broadcast(1.0f) / scale;
  return select_less(zero(), absolute(scale), inverse, zero());
}

// Sixteen sub-blocks of kSize elements, element by element, with what each element's error counts.
template <int kSize>
struct SubBlocks {
  f32x16 x[kSize], weight[kSize];

  // Reads count <= 16 sub-blocks; the other lanes are zero.
  SubBlocks(const float* source, int count) {
    float turned[kSize][kLanes] = {};
    for (int lane = 0; lane < count; ++lane)
      for (int i = 0; i < kSize; ++i) turned[i][lane] = source[lane * kSize + i];
    f32x16 squares = zero();
    for (int i = 0; i < kSize; ++i) {
      x[i] = load(turned[i]);
      squares = squares + x[i] * x[i];
    }
    const f32x16 root_mean_square = square_root(squares / broadcast(static_cast<float>(kSize)));
    for (int i = 0; i < kSize; ++i) weight[i] = absolute(x[i]) + root_mean_square;
  }
};

// The levels of sixteen sub-blocks of kSize elements as bytes, in the order of the elements.
template <int kSize>
struct Levels {
  uint8_t values[kLanes * kSize];

  // level_of(i): those of element i of all sub-blocks, integral and 0..255.
  template <class LevelOf>
  explicit Levels(const LevelOf& level_of) {
    for (int i = 0; i < kSize; ++i) {
      float lanes[kLanes];
      store(lanes, level_of(i));
      for (int lane = 0; lane < kLanes; ++lane) values[lane * kSize + i] = static_cast<uint8_t>(lanes[lane]);
    }
  }
};

// ---- q4_k, q5_k: x is about scale * level - offset

constexpr int kSize = 32;
using OffsetBlocks = SubBlocks<kSize>;
constexpr int kScales = kSuperblock / kSize;  // of one superblock; a vector holds those of two

struct Fit {
  f32x16 scale, offset;
};

struct Sums {
  f32x16 w, l, ll, x, xl;
};

// Least squares; where all levels are the same, for the offset alone. Negative becomes 0.
Fit solve(const Sums& sum) {
  const f32x16 both = sum.w * sum.ll;
  const f32x16 determinant = both - sum.l * sum.l;
  const f32x16 solved = (sum.l * sum.xl - sum.ll * sum.x) / determinant;
  const f32x16 alone = (zero() - sum.x) / sum.w;
  const f32x16 offset = positive(select_less(both * broadcast(1e-5f), determinant, solved, alone));
  return {positive((sum.xl + offset * sum.l) / max(sum.ll, broadcast(kTiny))), offset};
}

Fit fit_scale_and_offset(const OffsetBlocks& blocks, float top) {
  f32x16 low = zero(), high = blocks.x[0];
  Sums sum{zero(), zero(), zero(), zero(), zero()};
  for (int i = 0; i < kSize; ++i) {
    low = min(low, blocks.x[i]);
    high = max(high, blocks.x[i]);
    sum.w = sum.w + blocks.weight[i];
    sum.x = sum.x + blocks.weight[i] * blocks.x[i];
  }
  const f32x16 width = max(high - low, broadcast(kTiny));
  sum.w = max(sum.w, broadcast(kTiny));
  f32x16 best_error = broadcast(INFINITY);
  Fit best{zero(), zero()};
  for (float candidate : kCandidates) {
    const f32x16 inverse = broadcast(top + candidate) / width;
    sum.l = sum.ll = sum.xl = zero();
    for (int i = 0; i < kSize; ++i) {
      const f32x16 level = min(round_nearest((blocks.x[i] - low) * inverse), broadcast(top));
      const f32x16 weighted = blocks.weight[i] * level;
      sum.l = sum.l + weighted;
      sum.ll = sum.ll + weighted * level;
      sum.xl = sum.xl + weighted * blocks.x[i];
    }
    const Fit fit = solve(sum);
    const f32x16 two = broadcast(2.0f);
    f32x16 error = fit.scale * (fit.scale * sum.ll - two * (sum.xl + fit.offset * sum.l));
    error = error + fit.offset * (fit.offset * sum.w + two * sum.x);
    best.scale = select_less(error, best_error, fit.scale, best.scale);
    best.offset = select_less(error, best_error, fit.offset, best.offset);
    best_error = select_less(error, best_error, error, best_error);
  }
  return best;
}

// The factor of each superblock's scales, in all its lanes: its largest scale is 63 of them.
f32x16 factor_of(f32x16 scales) {
  float lanes[kLanes];
  store(lanes, scales);
  for (float* superblock = lanes; superblock < lanes + kLanes; superblock += kScales)
    std::fill_n(superblock, kScales, *std::max_element(superblock, superblock + kScales));
  return rounded_to_f16(load(lanes) / broadcast(63.0f));
}

// Rounds with a scale and an offset as they are stored.
struct OffsetRounding {
  f32x16 scale, inverse, offset;
  float top;

  OffsetRounding(const Fit& stored, const Fit& factor, float top)
      : scale(stored.scale * factor.scale),
        inverse(reciprocal(scale)),
        offset(stored.offset * factor.offset),
        top(top) {}

  f32x16 level(f32x16 x) const { return clip(round_nearest((x + offset) * inverse), 0.0f, top); }

  f32x16 error(const OffsetBlocks& blocks) const {
    f32x16 sum = zero();
    for (int i = 0; i < kSize; ++i) {
      const f32x16 difference = level(blocks.x[i]) * scale - offset - blocks.x[i];
      sum = sum + blocks.weight[i] * difference * difference;
    }
    return sum;
  }
};

Fit choose_stored(const OffsetBlocks& blocks, const Fit& fit, const Fit& factor, float top) {
  const f32x16 first_scale = round_nearest(fit.scale * reciprocal(factor.scale));
  const f32x16 first_offset = round_nearest(fit.offset * reciprocal(factor.offset));
  f32x16 best_error = broadcast(INFINITY);
  Fit best{zero(), zero()};
  for (float scale_step : kNeighbours) {
    const f32x16 scale = clip(first_scale + broadcast(scale_step), 0.0f, 63.0f);
    for (float offset_step : kNeighbours) {
      const f32x16 offset = clip(first_offset + broadcast(offset_step), 0.0f, 63.0f);
      const f32x16 error = OffsetRounding({scale, offset}, factor, top).error(blocks);
      best.scale = select_less(error, best_error, scale, best.scale);
      best.offset = select_less(error, best_error, offset, best.offset);
      best_error = select_less(error, best_error, error, best_error);
    }
  }
  return best;
}

// Two superblocks' scales or offsets, 0..63.
struct SixBits {
  uint8_t values[kLanes];

  explicit SixBits(f32x16 stored) {
    float lanes[kLanes];
    store(lanes, stored);
    for (int lane = 0; lane < kLanes; ++lane) values[lane] = static_cast<uint8_t>(lanes[lane]);
  }
};

// The first four scales and offsets whole, the others' low and high bits apart: 12 bytes.
void pack_six_bits(const uint8_t* scales, const uint8_t* offsets, uint8_t* out) {
  for (int i = 0; i < 4; ++i) {
    out[i] = static_cast<uint8_t>(scales[i] | scales[i + 4] >> 4 << 6);
    out[i + 4] = static_cast<uint8_t>(offsets[i] | offsets[i + 4] >> 4 << 6);
    out[i + 8] = static_cast<uint8_t>((scales[i + 4] & 15) | (offsets[i + 4] & 15) << 4);
  }
}

// Bit j of byte i: the fifth bit of element i of sub-block j.
void pack_fifth_bits(const uint8_t* levels, uint8_t* out) {
  for (int i = 0; i < kSize; ++i) {
    int bits = 0;
    for (int j = 0; j < kScales; ++j) bits |= levels[j * kSize + i] >> 4 << j;
    out[i] = static_cast<uint8_t>(bits);
  }
}

// Low and high halves of 32 bytes are two sub-blocks.
void pack_nibbles(const uint8_t* levels, uint8_t* out) {
  for (int pair = 0; pair < kScales / 2; ++pair, levels += 2 * kSize, out += kSize)
    for (int i = 0; i < kSize; ++i) out[i] = static_cast<uint8_t>((levels[i] & 15) | (levels[i + kSize] & 15) << 4);
}

template <bool kHasFifthBit>
void quantize_with_offset(const float* x, int64_t count, uint8_t* out) {
  constexpr float kTop = kHasFifthBit ? 31.0f : 15.0f;
  constexpr int kTogether = kLanes / kScales;
  for (int64_t first = 0; first < count; first += kTogether) {
    const int num_blocks = static_cast<int>(std::min<int64_t>(kTogether, count - first));
    const OffsetBlocks blocks(x + first * kSuperblock, num_blocks * kScales);
    const Fit fit = fit_scale_and_offset(blocks, kTop);
    const Fit factor{factor_of(fit.scale), factor_of(fit.offset)};
    const Fit stored = choose_stored(blocks, fit, factor, kTop);
    const OffsetRounding rounding(stored, factor, kTop);
    const Levels<kSize> levels([&](int i) { return rounding.level(blocks.x[i]); });
    const SixBits scales(stored.scale), offsets(stored.offset);
    uint16_t scale_factors[kLanes], offset_factors[kLanes];
    store_f16(scale_factors, factor.scale);
    store_f16(offset_factors, factor.offset);
    for (int block = 0; block < num_blocks; ++block) {
      const int lane = block * kScales;
      std::memcpy(out, scale_factors + lane, 2);
      std::memcpy(out + 2, offset_factors + lane, 2);
      pack_six_bits(scales.values + lane, offsets.values + lane, out + 4);
      out += 16;
      if constexpr (kHasFifthBit) {
        pack_fifth_bits(levels.values + lane * kSize, out);
        out += kSize;
      }
      pack_nibbles(levels.values + lane * kSize, out);
      out += kSuperblock / 2;
    }
  }
}

// ---- q6_k: x is about scale * level, level in -32..31; a vector is one superblock

constexpr int kSizeOfQ6K = 16;
using PlainBlocks = SubBlocks<kSizeOfQ6K>;

// The first of the largest magnitude among lanes, with its sign.
float first_largest(f32x16 x) {
  float lanes[kLanes];
  store(lanes, x);
  float largest = lanes[0];
  for (float lane : lanes)
    if (std::fabs(lane) > std::fabs(largest)) largest = lane;
  return largest;
}

f32x16 fit_scale(const PlainBlocks& blocks) {
  f32x16 largest = blocks.x[0];
  for (const f32x16& x : blocks.x) largest = select_less(absolute(largest), absolute(x), x, largest);
  const f32x16 turned = reciprocal(select_less(broadcast(kTiny), absolute(largest), largest, zero()));
  f32x16 best_gain = zero(), best_scale = zero();
  for (float candidate : kCandidates) {
    const f32x16 inverse = broadcast(-32.0f - candidate) * turned;
    f32x16 sum_ll = zero(), sum_xl = zero();
    for (int i = 0; i < kSizeOfQ6K; ++i) {
      const f32x16 level = clip(round_nearest(blocks.x[i] * inverse), -32.0f, 31.0f);
      const f32x16 weighted = blocks.weight[i] * level;
      sum_ll = sum_ll + weighted * level;
      sum_xl = sum_xl + weighted * blocks.x[i];
    }
    const f32x16 scale = sum_xl / max(sum_ll, broadcast(kTiny));
    const f32x16 gain = scale * sum_xl;
    best_scale = select_less(best_gain, gain, scale, best_scale);
    best_gain = select_less(best_gain, gain, gain, best_gain);
  }
  return best_scale;
}

struct PlainRounding {
  f32x16 scale, inverse;

  explicit PlainRounding(f32x16 scale) : scale(scale), inverse(reciprocal(scale)) {}

  f32x16 level(f32x16 x) const { return clip(round_nearest(x * inverse), -32.0f, 31.0f); }

  f32x16 error(const PlainBlocks& blocks) const {
    f32x16 sum = zero();
    for (int i = 0; i < kSizeOfQ6K; ++i) {
      const f32x16 difference = level(blocks.x[i]) * scale - blocks.x[i];
      sum = sum + blocks.weight[i] * difference * difference;
    }
    return sum;
  }
};

f32x16 choose_stored(const PlainBlocks& blocks, f32x16 scale, f32x16 factor) {
  const f32x16 first = round_nearest(scale * reciprocal(factor));
  f32x16 best_error = broadcast(INFINITY), best = zero();
  for (float step : kNeighbours) {
    const f32x16 stored = clip(first + broadcast(step), -128.0f, 127.0f);
    const f32x16 error = PlainRounding(stored * factor).error(blocks);
    best = select_less(error, best_error, stored, best);
    best_error = select_less(error, best_error, error, best_error);
  }
  return best;
}

// Of each half, 128 levels 0..63: 32 bytes of low nibbles for quarters 0 and 2, 32 for 1 and 3; 32 bytes of bit pairs.
void pack_six_bit_levels(const uint8_t* levels, uint8_t* low, uint8_t* high) {
  for (int half = 0; half < 2; ++half, levels += 128, low += 64, high += 32) {
    for (int i = 0; i < 32; ++i) {
      const int a = levels[i], b = levels[i + 32], c = levels[i + 64], d = levels[i + 96];
      low[i] = static_cast<uint8_t>((a & 15) | (c & 15) << 4);
      low[i + 32] = static_cast<uint8_t>((b & 15) | (d & 15) << 4);
      high[i] = static_cast<uint8_t>(a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6);
    }
  }
}

void quantize_q6_k(const float* x, int64_t count, uint8_t* out) {
  for (int64_t block = 0; block < count; ++block, x += kSuperblock, out += 210) {
    const PlainBlocks blocks(x, kLanes);
    const f32x16 scale = fit_scale(blocks);
    const f32x16 factor = rounded_to_f16(broadcast(first_largest(scale)) / broadcast(-128.0f));
    const f32x16 stored = choose_stored(blocks, scale, factor);
    const PlainRounding rounding(stored * factor);
    const Levels<kSizeOfQ6K> levels([&](int i) { return rounding.level(blocks.x[i]) + broadcast(32.0f); });
    pack_six_bit_levels(levels.values, out, out + 128);
    float scales[kLanes];
    store(scales, stored);
    for (int lane = 0; lane < kLanes; ++lane) out[192 + lane] = static_cast<uint8_t>(static_cast<int8_t>(scales[lane]));
    uint16_t factors[kLanes];
    store_f16(factors, factor);
    std::memcpy(out + 208, factors, 2);
  }
}

}  // namespace

extern const QuantizeSuperblockKernels quantize_superblock_kernels = {&quantize_with_offset<false>,
                                                                      &quantize_with_offset<true>, &quantize_q6_k};

}  // namespace transom::TRANSOM_ISA
