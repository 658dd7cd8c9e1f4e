// Integer vectors for quantised products: 32-bit lanes, a lane being a weight row, with four bytes or two half words.
//
// What differs between instruction sets is how four products of bytes are summed. `Dot` hides that: VNNI adds them to a
// 32-bit lane in one instruction; AVX2 and AVX-512 without VNNI add pairs to 16-bit halves, which must not overflow
// before they are widened. All of it is exact, so every build gives the same integers.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

// Vectors stay in registers only while no function takes their address and no loop indexes them. The portable build has
// no such registers, and no need of so much code; instrumented builds would take minutes over it.
#if (defined(__AVX512F__) || defined(__AVX2__)) && !defined(__SANITIZE_ADDRESS__)
#define TRANSOM_INLINE __attribute__((always_inline)) inline
#define TRANSOM_UNROLLED _Pragma("GCC unroll 16")
#define TRANSOM_ROLLED _Pragma("GCC unroll 1")
#else
#define TRANSOM_INLINE inline
#define TRANSOM_UNROLLED
#define TRANSOM_ROLLED
#endif

namespace transom::TRANSOM_ISA {

#if defined(__AVX512F__)

struct i32s {
  __m512i v;
};
constexpr int kIntLanes = 16;

TRANSOM_INLINE i32s no_ints() { return {_mm512_setzero_si512()}; }
TRANSOM_INLINE i32s broadcast_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
TRANSOM_INLINE i32s load_ints(const void* p) { return {_mm512_loadu_si512(p)}; }
TRANSOM_INLINE void store_ints(void* p, i32s a) { _mm512_storeu_si512(p, a.v); }
// Half words, unsigned.
TRANSOM_INLINE i32s widen_halves(const void* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
TRANSOM_INLINE i32s operator+(i32s a, i32s b) { return {_mm512_add_epi32(a.v, b.v)}; }
TRANSOM_INLINE i32s operator*(i32s a, i32s b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
TRANSOM_INLINE i32s operator&(i32s a, i32s b) { return {_mm512_and_si512(a.v, b.v)}; }
TRANSOM_INLINE i32s operator|(i32s a, i32s b) { return {_mm512_or_si512(a.v, b.v)}; }
TRANSOM_INLINE i32s operator^(i32s a, i32s b) { return {_mm512_xor_si512(a.v, b.v)}; }
// Logical, by lanes of 32 bits.
TRANSOM_INLINE i32s shift_left(i32s a, int n) { return {_mm512_slli_epi32(a.v, static_cast<unsigned>(n))}; }
TRANSOM_INLINE i32s shift_right(i32s a, int n) { return {_mm512_srli_epi32(a.v, static_cast<unsigned>(n))}; }
TRANSOM_INLINE i32s shift_right_signed(i32s a, int n) { return {_mm512_srai_epi32(a.v, static_cast<unsigned>(n))}; }
// By lanes of 16 bits.
TRANSOM_INLINE i32s shift_left_halves(i32s a, int n) { return {_mm512_slli_epi16(a.v, static_cast<unsigned>(n))}; }
TRANSOM_INLINE i32s subtract_bytes(i32s a, i32s b) { return {_mm512_sub_epi8(a.v, b.v)}; }
// table[a byte's low four bits]; high bits must be 0.
TRANSOM_INLINE i32s look_up(const int8_t* table, i32s a) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), a.v)};
}
// sum + the two products of half words.
TRANSOM_INLINE i32s add_pairs(i32s sum, i32s a, i32s b) {
#if defined(__AVX512VNNI__)
  return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
#else
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, b.v))};
#endif
}
TRANSOM_INLINE f32x16 to_floats(const i32s* a) { return {_mm512_cvtepi32_ps(a->v)}; }
// Whole numbers in -128..127.
TRANSOM_INLINE void store_bytes(int8_t* p, f32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

#elif defined(__AVX2__)

struct i32s {
  __m256i v;
};
constexpr int kIntLanes = 8;

TRANSOM_INLINE i32s no_ints() { return {_mm256_setzero_si256()}; }
TRANSOM_INLINE i32s broadcast_int(int32_t x) { return {_mm256_set1_epi32(x)}; }
TRANSOM_INLINE i32s load_ints(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
TRANSOM_INLINE void store_ints(void* p, i32s a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a.v); }
TRANSOM_INLINE i32s widen_halves(const void* p) {
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
TRANSOM_INLINE i32s operator+(i32s a, i32s b) { return {_mm256_add_epi32(a.v, b.v)}; }
TRANSOM_INLINE i32s operator*(i32s a, i32s b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
TRANSOM_INLINE i32s operator&(i32s a, i32s b) { return {_mm256_and_si256(a.v, b.v)}; }
TRANSOM_INLINE i32s operator|(i32s a, i32s b) { return {_mm256_or_si256(a.v, b.v)}; }
TRANSOM_INLINE i32s operator^(i32s a, i32s b) { return {_mm256_xor_si256(a.v, b.v)}; }
TRANSOM_INLINE i32s shift_left(i32s a, int n) { return {_mm256_slli_epi32(a.v, n)}; }
TRANSOM_INLINE i32s shift_right(i32s a, int n) { return {_mm256_srli_epi32(a.v, n)}; }
TRANSOM_INLINE i32s shift_right_signed(i32s a, int n) { return {_mm256_srai_epi32(a.v, n)}; }
TRANSOM_INLINE i32s shift_left_halves(i32s a, int n) { return {_mm256_slli_epi16(a.v, n)}; }
TRANSOM_INLINE i32s subtract_bytes(i32s a, i32s b) { return {_mm256_sub_epi8(a.v, b.v)}; }
TRANSOM_INLINE i32s look_up(const int8_t* table, i32s a) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), a.v)};
}
TRANSOM_INLINE i32s add_pairs(i32s sum, i32s a, i32s b) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v))};
}
TRANSOM_INLINE f32x16 to_floats(const i32s* a) { return {_mm256_cvtepi32_ps(a[0].v), _mm256_cvtepi32_ps(a[1].v)}; }
TRANSOM_INLINE void store_bytes(int8_t* p, f32x16 a) {
  const __m256i halves = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i ordered = _mm256_permute4x64_epi64(halves, 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

#else

struct i32s {
  uint32_t v[16];
};
constexpr int kIntLanes = 16;

template <class F>
TRANSOM_INLINE i32s map_ints(F f) {
  i32s r;
  for (int i = 0; i < kIntLanes; ++i) r.v[i] = static_cast<uint32_t>(f(i));
  return r;
}
template <class F>
TRANSOM_INLINE i32s map_bytes(F f) {
  return map_ints([&](int i) {
    uint32_t word = 0;
    for (int b = 0; b < 4; ++b) word |= (static_cast<uint32_t>(f(i, 8 * b)) & 255u) << (8 * b);
    return word;
  });
}
TRANSOM_INLINE int byte_of(uint32_t word, int shift) { return static_cast<int>(word >> shift & 255u); }
TRANSOM_INLINE int signed_byte_of(uint32_t word, int shift) { return static_cast<int8_t>(word >> shift); }
TRANSOM_INLINE int half_of(uint32_t word, int shift) { return static_cast<int16_t>(word >> shift); }

TRANSOM_INLINE i32s no_ints() {
  return map_ints([](int) { return 0; });
}
TRANSOM_INLINE i32s broadcast_int(int32_t x) {
  return map_ints([=](int) { return x; });
}
TRANSOM_INLINE i32s load_ints(const void* p) {
  i32s r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
TRANSOM_INLINE void store_ints(void* p, const i32s& a) { std::memcpy(p, a.v, sizeof a.v); }
TRANSOM_INLINE i32s widen_halves(const void* p) {
  uint16_t halves[kIntLanes];
  std::memcpy(halves, p, sizeof halves);
  return map_ints([&](int i) { return halves[i]; });
}
TRANSOM_INLINE i32s operator+(const i32s& a, const i32s& b) {
  return map_ints([&](int i) { return a.v[i] + b.v[i]; });
}
TRANSOM_INLINE i32s operator*(const i32s& a, const i32s& b) {
  return map_ints([&](int i) { return a.v[i] * b.v[i]; });
}
TRANSOM_INLINE i32s operator&(const i32s& a, const i32s& b) {
  return map_ints([&](int i) { return a.v[i] & b.v[i]; });
}
TRANSOM_INLINE i32s operator|(const i32s& a, const i32s& b) {
  return map_ints([&](int i) { return a.v[i] | b.v[i]; });
}
TRANSOM_INLINE i32s operator^(const i32s& a, const i32s& b) {
  return map_ints([&](int i) { return a.v[i] ^ b.v[i]; });
}
TRANSOM_INLINE i32s shift_left(const i32s& a, int n) {
  return map_ints([&](int i) { return a.v[i] << n; });
}
TRANSOM_INLINE i32s shift_right(const i32s& a, int n) {
  return map_ints([&](int i) { return a.v[i] >> n; });
}
TRANSOM_INLINE i32s shift_right_signed(const i32s& a, int n) {
  return map_ints([&](int i) { return static_cast<int32_t>(a.v[i]) >> n; });
}
TRANSOM_INLINE i32s subtract_bytes(const i32s& a, const i32s& b) {
  return map_bytes([&](int i, int shift) { return byte_of(a.v[i], shift) - byte_of(b.v[i], shift); });
}
TRANSOM_INLINE i32s look_up(const int8_t* table, const i32s& a) {
  return map_bytes([&](int i, int shift) { return table[byte_of(a.v[i], shift)]; });
}
TRANSOM_INLINE i32s add_pairs(const i32s& sum, const i32s& a, const i32s& b) {
  return map_ints([&](int i) {
    const int32_t products = half_of(a.v[i], 0) * half_of(b.v[i], 0) + half_of(a.v[i], 16) * half_of(b.v[i], 16);
    return sum.v[i] + static_cast<uint32_t>(products);
  });
}
TRANSOM_INLINE f32x16 to_floats(const i32s* a) {
  return map([&](int i) { return static_cast<float>(static_cast<int32_t>(a->v[i])); });
}
TRANSOM_INLINE void store_bytes(int8_t* p, const f32x16& a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(std::nearbyint(a.v[i]));
}

#endif

// Vectors for the 16 rows of a panel.
constexpr int kParts = 16 / kIntLanes;

// ---- sums of products of four bytes by lane ----

#if defined(__AVX512VNNI__) || !defined(__AVX2__)
constexpr bool kSumsInHalves = false;
#else
constexpr bool kSumsInHalves = true;
#endif

// The sum of a group of activations as `Dot::start` takes it; in halves: of bytes 0 and 1, and of bytes 2 and 3.
TRANSOM_INLINE int32_t start_of(int first_pairs, int second_pairs) {
  if (!kSumsInHalves) return first_pairs + second_pairs;
  return static_cast<int32_t>((static_cast<uint32_t>(first_pairs) & 0xffffu) | static_cast<uint32_t>(second_pairs)
                                                                                   << 16);
}

// Unsigned codes times signed activations. Codes are what is stored; of a type whose weights are code - 2^shift, the
// sum starts at -2^shift times the sum of the activations. Where sums are in halves, the caller sees to it that
// a sub-block's sum, start included, fits 16 bits (on the way it may wrap around), and so does any pair of products.
struct UnsignedDot {
  i32s sum;

  static TRANSOM_INLINE i32s to_operand(i32s codes) { return codes; }
  static TRANSOM_INLINE UnsignedDot start() { return {no_ints()}; }
  static TRANSOM_INLINE UnsignedDot start(i32s negative_sum, int shift) {
#if defined(__AVX2__)
    if constexpr (kSumsInHalves) return {shift_left_halves(negative_sum, shift)};
#endif
    return {shift_left(negative_sum, shift)};
  }
  TRANSOM_INLINE void add(i32s codes, i32s x) {
#if defined(__AVX512VNNI__)
    sum.v = _mm512_dpbusd_epi32(sum.v, codes.v, x.v);
#elif defined(__AVX512F__)
    sum.v = _mm512_add_epi16(sum.v, _mm512_maddubs_epi16(codes.v, x.v));
#elif defined(__AVX2__)
    sum.v = _mm256_add_epi16(sum.v, _mm256_maddubs_epi16(codes.v, x.v));
#else
    for (int i = 0; i < kIntLanes; ++i) {
      int32_t products = 0;
      for (int b = 0; b < 32; b += 8) products += byte_of(codes.v[i], b) * signed_byte_of(x.v[i], b);
      sum.v[i] += static_cast<uint32_t>(products);
    }
#endif
  }
  // total + sum * scale, the scale as `scale_of_byte` gives it.
  TRANSOM_INLINE i32s add_times(i32s total, i32s scale) const {
    if constexpr (kSumsInHalves) return add_pairs(total, sum, scale);
    return total + sum * scale;
  }
  TRANSOM_INLINE i32s add_to(i32s total) const {
    if constexpr (kSumsInHalves) return add_pairs(total, sum, broadcast_int(0x00010001));
    return total + sum;
  }
  // Byte `index` of each lane, signed, as a factor of sums.
  static TRANSOM_INLINE i32s scale_of_byte(i32s bytes, int index) {
    const i32s wide = shift_right_signed(shift_left(bytes, 24 - 8 * index), 24);
    if constexpr (kSumsInHalves) return (wide & broadcast_int(0xffff)) | shift_left(wide, 16);
    return wide;
  }
};

// Signed codes, -128..127, times signed activations, -127..127; sums are never in halves.
struct SignedDot {
  i32s sum;

  // VNNI wants one factor unsigned: code + 128, and the start takes that back.
  static TRANSOM_INLINE i32s to_operand(i32s codes) {
#if defined(__AVX512VNNI__)
    return codes ^ broadcast_int(static_cast<int32_t>(0x80808080u));
#else
    return codes;
#endif
  }
  static TRANSOM_INLINE SignedDot start(i32s negative_sum, int) {
#if defined(__AVX512VNNI__)
    return {shift_left(negative_sum, 7)};
#else
    (void)negative_sum;
    return {no_ints()};
#endif
  }
  TRANSOM_INLINE void add(i32s codes, i32s x) {
#if defined(__AVX512VNNI__)
    sum.v = _mm512_dpbusd_epi32(sum.v, codes.v, x.v);
#elif defined(__AVX512F__)
    // Without VNNI: magnitudes of codes times activations with the codes' signs; a pair of products fits 16 bits.
    const __m512i turned = _mm512_mask_sub_epi8(x.v, _mm512_movepi8_mask(codes.v), _mm512_setzero_si512(), x.v);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(codes.v), turned);
    sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes.v), _mm256_sign_epi8(x.v, codes.v));
    sum.v = _mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    for (int i = 0; i < kIntLanes; ++i) {
      int32_t products = 0;
      for (int b = 0; b < 32; b += 8) products += signed_byte_of(codes.v[i], b) * signed_byte_of(x.v[i], b);
      sum.v[i] += static_cast<uint32_t>(products);
    }
#endif
  }
  TRANSOM_INLINE i32s add_times(i32s total, i32s scale) const { return total + sum * scale; }
  TRANSOM_INLINE i32s add_to(i32s total) const { return total + sum; }
  static TRANSOM_INLINE i32s scale_of_byte(i32s bytes, int index) {
    return shift_right_signed(shift_left(bytes, 24 - 8 * index), 24);
  }
};

}  // namespace transom::TRANSOM_ISA
