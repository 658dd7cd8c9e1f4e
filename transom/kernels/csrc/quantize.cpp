// From floats to blocks of 32 with one scale: q8_0, q4_0. The specification is `reference_quantize.py`.
#include "quantize.h"

#include <cmath>

#include "simd.h"

namespace transom::TRANSOM_ISA {
namespace {

constexpr int kBlock = 32;

bool can_quantize(const float* x, int64_t count) {
  bool all = true;
  for (int64_t i = 0; i < count; ++i) all &= std::fabs(x[i]) < kMaxMagnitude;
  return all;
}

void write_f16(uint8_t* out, float value) {
  uint16_t halves[kLanes];
  store_f16(halves, broadcast(value));
  std::memcpy(out, halves, sizeof(uint16_t));
}

// 0 where the scale is 0, or so small that its reciprocal is not finite.
float reciprocal(float scale) {
  const float inverse = 1.0f / scale;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// As C's roundf, which has no vector instruction.
float round_half_away(float x) {
  const float magnitude = std::fabs(x);
  const float whole = std::floor(magnitude);
  return std::copysign(whole + std::floor(2.0f * (magnitude - whole)), x);
}

void q8_0(const float* x, int64_t count, uint8_t* out) {
  constexpr int64_t kBytes = 2 + kBlock;
  for (int64_t block = 0; block < count; ++block, x += kBlock, out += kBytes) {
    const f32x16 first = load(x), second = load(x + kLanes);
    const float largest = reduce_max(max(max(first, zero() - first), max(second, zero() - second)));
    const float scale = largest / 127.0f;
    const float inverse = reciprocal(scale);
    write_f16(out, scale);
    for (int i = 0; i < kBlock; ++i)
      out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(round_half_away(x[i] * inverse)));
  }
}

void q4_0(const float* x, int64_t count, uint8_t* out) {
  constexpr int64_t kBytes = 2 + kBlock / 2;
  for (int64_t block = 0; block < count; ++block, x += kBlock, out += kBytes) {
    float largest = x[0];
    for (int i = 1; i < kBlock; ++i)
      if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
    const float scale = largest / -8.0f;
    const float inverse = reciprocal(scale);
    write_f16(out, scale);
    const auto level = [&](int i) {
      const float exact = x[i] * inverse + 8.5f;
      return static_cast<uint8_t>(exact < 15.0f ? exact : 15.0f);
    };
    for (int i = 0; i < kBlock / 2; ++i) out[2 + i] = static_cast<uint8_t>(level(i) | level(i + kBlock / 2) << 4);
  }
}

}  // namespace

extern const QuantizeKernels quantize_kernels = {&can_quantize, &q8_0, &q4_0};

}  // namespace transom::TRANSOM_ISA
