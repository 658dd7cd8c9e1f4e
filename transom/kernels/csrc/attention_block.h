// One KV head's keys and values in a block, by type: where they lie, as lanes for a product, packed, and stored.
// Belongs to one instruction set, like simd.h.
//
// Every type widens to float exactly, so that a product may take its lanes from the block or from packed memory and
// gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention.h"
#include "attention_product.h"
#include "simd.h"

namespace transom::TRANSOM_ISA {
namespace {

inline f32x16 load_lanes(const float* p) { return load(p); }
inline f32x16 load_lanes(const uint16_t* p) { return load_f16(p); }
inline f32x16 load_lanes(const int8_t* p) { return load_i8(p); }

// The first lanes; the others are 0, and their memory is not read.
template <class T>
inline f32x16 load_first_lanes(const T* p, int64_t count) {
  T lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(T));
  return load_lanes(lanes);
}

inline void store_lanes(float* p, f32x16 lanes) { store(p, lanes); }
inline void store_lanes(uint16_t* p, f32x16 lanes) { store_f16(p, lanes); }

// ---- f32 and f16 ----------------------------------------------------------------------------------------------------

template <class T>
struct Panels {
  const T* first;
  int64_t depth_stride;
  int64_t panel_stride;
  const T* at(int64_t depth, int64_t panel) const { return first + depth * depth_stride + panel * panel_stride; }
  Panels from(int64_t depth, int64_t panel) const { return {at(depth, panel), depth_stride, panel_stride}; }
  f32x16 lanes(int64_t depth, int64_t panel) const { return load_lanes(at(depth, panel)); }
  f32x16 first_lanes(int64_t depth, int64_t panel, int64_t count) const {
    return load_first_lanes(at(depth, panel), count);
  }
};

template <class T>
struct PlainBlock {
  using Element = T;

  static const T* keys(const void* block) { return static_cast<const T*>(block); }
  static const T* values(const void* block, int head_dim) { return keys(block) + kBlockTokens * head_dim; }
  static Panels<T> key_panels(const T* keys, int, float*, const T*) { return {keys, kBlockTokens, kLanes}; }
  static Panels<T> value_panels(const T* values, int head_dim, float*, const T*) { return {values, head_dim, kLanes}; }

  static void store(void* block, int64_t head_dim, int64_t column, const float* key, const float* value) {
    T* keys = static_cast<T*>(block) + column;
    T* values = static_cast<T*>(block) + (kBlockTokens + column) * head_dim;
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      const int count = static_cast<int>(smaller(kLanes, head_dim - d));
      T lanes[kLanes];
      store_lanes(lanes, load_first(key + d, count));
      for (int i = 0; i < count; ++i) keys[(d + i) * kBlockTokens] = lanes[i];
      store_lanes(lanes, load_first(value + d, count));
      std::memcpy(values + d, lanes, static_cast<size_t>(count) * sizeof(T));
    }
  }
};

// ---- q8_0 -----------------------------------------------------------------------------------------------------------

// Integers times the scales of their groups: at most 7 + 11 bits, which a float holds exactly.
struct QuantisedKeys {
  const int8_t* first;
  const float* scales;                                      // [groups][64]
  QuantisedKeys from(int64_t depth, int64_t panel) const {  // depth is that of a group's first channel
    return {first + depth * kBlockTokens + panel * kLanes, scales_at(depth, panel)};
  }
  const float* scales_at(int64_t depth, int64_t panel) const {
    return scales + static_cast<uint64_t>(depth) / kGroupChannels * kBlockTokens + panel * kLanes;
  }
  f32x16 lanes(int64_t depth, int64_t panel) const {
    return load_i8(first + depth * kBlockTokens + panel * kLanes) * load(scales_at(depth, panel));
  }
};

struct QuantisedValues {
  const int8_t* first;
  const float* scales;  // [64][groups]
  int64_t head_dim;
  int64_t groups;
  int64_t first_panel;
  QuantisedValues from(int64_t depth, int64_t panel) const {
    return {first + depth * head_dim + panel * kLanes, scales + depth * groups, head_dim, groups, first_panel + panel};
  }
  f32x16 scale(int64_t depth, int64_t panel) const {
    constexpr int kGroupPanels = kGroupChannels / kLanes;
    return broadcast(
        scales[depth * groups + static_cast<int64_t>(static_cast<uint64_t>(first_panel + panel) / kGroupPanels)]);
  }
  f32x16 lanes(int64_t depth, int64_t panel) const {
    return load_i8(first + depth * head_dim + panel * kLanes) * scale(depth, panel);
  }
  f32x16 first_lanes(int64_t depth, int64_t panel, int64_t count) const {
    return load_first_lanes(first + depth * head_dim + panel * kLanes, count) * scale(depth, panel);
  }
};

// One group, as it is stored: scale = f16(largest magnitude / 127), integers = x * (1 / scale) to nearest even, at most
// 127 in magnitude. All zero where the scale is; not a number throughout if something is not finite, or the scale would
// not be.
inline void quantise(const float* x, int count, int8_t* integers, uint16_t* scale) {
  constexpr uint16_t kNotANumber = 0x7e00;
  const f32x16 lanes[2] = {load_first(x, static_cast<int>(smaller(count, kLanes))),
                           load_first(x + kLanes, static_cast<int>(larger(0, count - kLanes)))};
  const f32x16 magnitudes = max(max(lanes[0], zero() - lanes[0]), max(lanes[1], zero() - lanes[1]));
  const float zero_if_finite = reduce_add(lanes[0] * zero() + lanes[1] * zero());
  uint16_t rounded[kLanes];
  store_f16(rounded, broadcast((reduce_max(magnitudes) + zero_if_finite) / 127.0f));
  float widened[kLanes];
  store(widened, load_f16(rounded));
  const bool is_finite = std::isfinite(widened[0]);
  const f32x16 factor = broadcast(is_finite && widened[0] > 0.0f ? 1.0f / widened[0] : 0.0f);
  *scale = is_finite ? rounded[0] : kNotANumber;
  for (int i = 0; i < 2; ++i) {
    const f32x16 nearest = round_nearest(lanes[i] * factor);
    store_i8(integers + i * kLanes, is_finite ? min(broadcast(127.0f), max(broadcast(-127.0f), nearest)) : zero());
  }
}

struct QuantisedBlock {
  using Element = int8_t;

  static const int8_t* keys(const void* block) { return static_cast<const int8_t*>(block); }
  static const int8_t* values(const void* block, int head_dim) {
    return keys(block) + half_bytes(KVType::q8_0, head_dim);
  }
  static QuantisedKeys key_panels(const int8_t* keys, int head_dim, float* scales, const int8_t* next) {
    widen_scales(keys, head_dim, scales, next);
    return {keys, scales};
  }
  static QuantisedValues value_panels(const int8_t* values, int head_dim, float* scales, const int8_t* next) {
    widen_scales(values, head_dim, scales, next);
    return {values, scales, head_dim, groups_of(head_dim), 0};
  }

  static void store(void* block, int64_t head_dim, int64_t column, const float* key, const float* value) {
    const int64_t groups = groups_of(head_dim);
    int8_t* keys = static_cast<int8_t*>(block);
    int8_t* values = keys + half_bytes(KVType::q8_0, head_dim);
    uint16_t* key_scales = scales_of(keys, head_dim);
    uint16_t* value_scales = scales_of(values, head_dim) + column * groups;
    for (int64_t group = 0, d = 0; group < groups; ++group, d += kGroupChannels) {
      const int count = static_cast<int>(smaller(kGroupChannels, head_dim - d));
      int8_t integers[kGroupChannels];
      quantise(key + d, count, integers, key_scales + group * kBlockTokens + column);
      for (int i = 0; i < count; ++i) keys[(d + i) * kBlockTokens + column] = integers[i];
      quantise(value + d, count, integers, value_scales + group);
      std::memcpy(values + column * head_dim + d, integers, static_cast<size_t>(count));
    }
  }

 private:
  static uint16_t* scales_of(int8_t* half, int64_t head_dim) {
    return reinterpret_cast<uint16_t*>(half + kBlockTokens * head_dim);
  }
  // Scales are used many times: they are widened first. Those of the half that comes next are asked for.
  static void widen_scales(const int8_t* half, int64_t head_dim, float* scales, const int8_t* next) {
    constexpr int64_t kCacheLine = 64;
    const int64_t elements = kBlockTokens * head_dim, num_scales = kBlockTokens * groups_of(head_dim);
    const uint16_t* stored = reinterpret_cast<const uint16_t*>(half + elements);
    for (int64_t i = 0; i < num_scales; i += kLanes) store_lanes(scales + i, load_f16(stored + i));
    for (int64_t i = 0; i < num_scales * 2; i += kCacheLine) __builtin_prefetch(next + elements + i, 0, 2);
  }
};

// ---- Packed ---------------------------------------------------------------------------------------------------------

// [head_dim][64] -> [panel of 16 tokens][head_dim][16]
template <class Source>
Panels<float> pack_keys(Source keys, int head_dim, Range panels, float* packed) {
  for (int d = 0; d < head_dim; ++d)
    for (int64_t panel = panels.begin; panel < panels.end; ++panel)
      store(packed + (panel * head_dim + d) * kLanes, keys.lanes(d, panel));
  return {packed, kLanes, static_cast<int64_t>(head_dim) * kLanes};
}

// [64][head_dim] -> [panel of 16 channels][64][16], tokens of the range only
template <class Source>
Panels<float> pack_values(Source values, int head_dim, Range tokens, float* packed) {
  const int64_t whole = head_dim / kLanes, rest = head_dim % kLanes;
  for (int64_t token = tokens.begin; token < tokens.end; ++token) {
    float* target = packed + token * kLanes;
    for (int64_t panel = 0; panel < whole; ++panel, target += kBlockTokens * kLanes)
      store(target, values.lanes(token, panel));
    if (rest != 0) store(target, values.first_lanes(token, whole, rest));
  }
  return {packed, kLanes, kBlockTokens * kLanes};
}

}  // namespace
}  // namespace transom::TRANSOM_ISA
