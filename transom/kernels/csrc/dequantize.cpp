// Plain loops over the layouts of ggml's file format (ggml-common.h, ggml-quants.c; also gguf-py's quants.py).
#include "dequantize.h"

#include <cstring>

#include "half_float.h"

namespace transom {
namespace {

// The bytes of one block.
struct Block {
  const uint8_t* bytes;

  int byte(int64_t offset) const { return bytes[offset]; }
  int signed_byte(int64_t offset) const { return static_cast<int8_t>(bytes[offset]); }
  float half(int64_t offset) const { return f16_to_f32(static_cast<uint16_t>(word16(offset))); }
  uint32_t word16(int64_t offset) const { return bytes[offset] | static_cast<uint32_t>(bytes[offset + 1]) << 8; }
  uint32_t word32(int64_t offset) const { return word16(offset) | word16(offset + 2) << 16; }
};

// ---- blocks of 32 ----

// Weight k of a block of 16 bytes: the low nibbles come first.
int nibble(Block block, int64_t offset, int k) { return block.byte(offset + k % 16) >> (k / 16 * 4) & 15; }
int fifth_bit(uint32_t bits, int k) { return static_cast<int>(bits >> k & 1u) << 4; }

void dequantize_q8_0(Block block, float* out) {
  const float scale = block.half(0);
  for (int k = 0; k < 32; ++k) out[k] = static_cast<float>(block.signed_byte(2 + k)) * scale;
}

void dequantize_q4_0(Block block, float* out) {
  const float scale = block.half(0);
  for (int k = 0; k < 32; ++k) out[k] = scale * static_cast<float>(nibble(block, 2, k) - 8);
}

void dequantize_q4_1(Block block, float* out) {
  const float scale = block.half(0), minimum = block.half(2);
  for (int k = 0; k < 32; ++k) out[k] = scale * static_cast<float>(nibble(block, 4, k)) + minimum;
}

void dequantize_q5_0(Block block, float* out) {
  const float scale = block.half(0);
  const uint32_t bits = block.word32(2);
  for (int k = 0; k < 32; ++k) out[k] = scale * static_cast<float>((nibble(block, 6, k) | fifth_bit(bits, k)) - 16);
}

void dequantize_q5_1(Block block, float* out) {
  const float scale = block.half(0), minimum = block.half(2);
  const uint32_t bits = block.word32(4);
  for (int k = 0; k < 32; ++k) out[k] = scale * static_cast<float>(nibble(block, 8, k) | fifth_bit(bits, k)) + minimum;
}

void dequantize_iq4_nl(Block block, float* out) {
  const float scale = block.half(0);
  for (int k = 0; k < 32; ++k) out[k] = scale * static_cast<float>(kCodebook[nibble(block, 2, k)]);
}

// ---- blocks of 256 ----

void dequantize_q2_k(Block block, float* out) {
  const float scale = block.half(80), minimum = block.half(82);
  for (int k = 0; k < 256; ++k) {
    const int factors = block.byte(k / 16);
    const float sub_scale = scale * static_cast<float>(factors & 15);
    const float sub_minimum = minimum * static_cast<float>(factors >> 4);
    const int code = block.byte(16 + k / 128 * 32 + k % 32) >> (k % 128 / 32 * 2) & 3;
    out[k] = sub_scale * static_cast<float>(code) - sub_minimum;
  }
}

// Sixteen 6-bit factors in 12 bytes: eight bytes of low nibbles, four of high bit pairs.
int factor_q3_k(Block block, int sub) {
  const int low = block.byte(96 + sub % 8) >> (sub / 8 * 4) & 15;
  const int high = block.byte(104 + sub % 4) >> (sub / 4 * 2) & 3;
  return (low | high << 4) - 32;
}

void dequantize_q3_k(Block block, float* out) {
  const float scale = block.half(108);
  for (int k = 0; k < 256; ++k) {
    const int low = block.byte(32 + k / 128 * 32 + k % 32) >> (k % 128 / 32 * 2) & 3;
    const int high = block.byte(k % 32) >> (k / 32) & 1;
    out[k] = scale * static_cast<float>(factor_q3_k(block, k / 16)) * static_cast<float>(low - (high ? 0 : 4));
  }
}

// Eight 6-bit scales and eight minima in 12 bytes: those of the last four sub-blocks have their high bits in the first
// eight bytes.
struct ScaleAndMinimum {
  float scale, minimum;
};

ScaleAndMinimum factors_q4_k(Block block, int sub) {
  const float scale = block.half(0), minimum = block.half(2);
  const int a = block.byte(4 + sub % 4), b = block.byte(8 + sub % 4), c = block.byte(12 + sub % 4);
  const int scale_factor = sub < 4 ? a & 63 : (c & 15) | (a >> 6) << 4;
  const int minimum_factor = sub < 4 ? b & 63 : c >> 4 | (b >> 6) << 4;
  return {scale * static_cast<float>(scale_factor), minimum * static_cast<float>(minimum_factor)};
}

void dequantize_q4_k(Block block, float* out) {
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleAndMinimum factors = factors_q4_k(block, sub);
    for (int k = 0; k < 32; ++k) {
      const int code = block.byte(16 + sub / 2 * 32 + k) >> (sub % 2 * 4) & 15;
      out[sub * 32 + k] = factors.scale * static_cast<float>(code) - factors.minimum;
    }
  }
}

void dequantize_q5_k(Block block, float* out) {
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleAndMinimum factors = factors_q4_k(block, sub);
    for (int k = 0; k < 32; ++k) {
      const int low = block.byte(48 + sub / 2 * 32 + k) >> (sub % 2 * 4) & 15;
      const int high = block.byte(16 + k) >> sub & 1;
      out[sub * 32 + k] = factors.scale * static_cast<float>(low | high << 4) - factors.minimum;
    }
  }
}

void dequantize_q6_k(Block block, float* out) {
  const float scale = block.half(208);
  for (int k = 0; k < 256; ++k) {
    const int half = k / 128, quarter = k % 128 / 32, i = k % 32;
    const int low = block.byte(half * 64 + quarter % 2 * 32 + i) >> (quarter / 2 * 4) & 15;
    const int high = block.byte(128 + half * 32 + i) >> (quarter * 2) & 3;
    const float sub_scale = scale * static_cast<float>(block.signed_byte(192 + k / 16));
    out[k] = sub_scale * static_cast<float>((low | high << 4) - 32);
  }
}

void dequantize_iq4_xs(Block block, float* out) {
  const float scale = block.half(0);
  for (int sub = 0; sub < 8; ++sub) {
    const int low = block.byte(4 + sub / 2) >> (sub % 2 * 4) & 15;
    const int high = static_cast<int>(block.word16(2) >> (sub * 2) & 3);
    const float sub_scale = scale * static_cast<float>((low | high << 4) - 32);
    for (int k = 0; k < 32; ++k)
      out[sub * 32 + k] = sub_scale * static_cast<float>(kCodebook[nibble(block, 8 + sub * 16, k)]);
  }
}

using DequantizeBlock = void (*)(Block block, float* out);

DequantizeBlock block_function(WeightType type) {
  switch (type) {
    case WeightType::q4_0:
      return dequantize_q4_0;
    case WeightType::q4_1:
      return dequantize_q4_1;
    case WeightType::q5_0:
      return dequantize_q5_0;
    case WeightType::q5_1:
      return dequantize_q5_1;
    case WeightType::q2_k:
      return dequantize_q2_k;
    case WeightType::q3_k:
      return dequantize_q3_k;
    case WeightType::q4_k:
      return dequantize_q4_k;
    case WeightType::q5_k:
      return dequantize_q5_k;
    case WeightType::q6_k:
      return dequantize_q6_k;
    case WeightType::iq4_nl:
      return dequantize_iq4_nl;
    case WeightType::iq4_xs:
      return dequantize_iq4_xs;
    default:
      return dequantize_q8_0;
  }
}

}  // namespace

void dequantize_row(WeightType type, int64_t in_features, const std::byte* row, float* out) {
  const DequantizeBlock dequantize_block = block_function(type);
  const WeightTypeFacts& facts = facts_of(type);
  for (int64_t k = 0; k < in_features; k += facts.block_size) {
    dequantize_block({reinterpret_cast<const uint8_t*>(row)}, out + k);
    row += facts.block_bytes;
  }
}

}  // namespace transom
