// Sixteen float lanes with one meaning on every instruction set.
//
// Kernels are written once against `f32x16` and compiled three times (portable, AVX2, AVX-512), each in its own
// namespace TRANSOM_ISA. A lane never meets another lane except through `reduce_add` and `reduce_max`, whose tree is
// fixed, and every multiply-add is fused; so all three give the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#else
#include "half_float.h"
#endif

namespace transom::TRANSOM_ISA {

constexpr int kLanes = 16;

#if defined(__AVX512F__)

struct f32x16 {
  __m512 v;
};

inline f32x16 zero() { return {_mm512_setzero_ps()}; }
inline f32x16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
inline __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
// Lanes >= count read as 0 and are not touched in memory. 0 <= count <= 16.
inline f32x16 load_first(const float* p, int count) { return {_mm512_maskz_loadu_ps(first_lanes(count), p)}; }
inline void store_first(float* p, f32x16 a, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), a.v); }
// 16 half floats (IEEE) or bfloat16, exact conversion.
inline f32x16 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline f32x16 load_bf16(const uint16_t* p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline f32x16 load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
// Lanes are integers in -128 .. 127.
inline void store_i8(int8_t* p, f32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
// Round to nearest even.
inline void store_f16(uint16_t* p, f32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
// a * b + c with one rounding.
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Lanes of a where lane index < count, else of b.
inline f32x16 select_first(f32x16 a, f32x16 b, int count) {
  return {_mm512_mask_blend_ps(first_lanes(count), b.v, a.v)};
}
inline f32x16 round_nearest(f32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2^n for integral n in -126..127 (n given as float).
inline f32x16 pow2_integral(f32x16 n) {
  __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))};
}

#elif defined(__AVX2__)

struct f32x16 {
  __m256 lo, hi;
};

inline f32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline f32x16 broadcast(float x) {
  __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
inline f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, f32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline __m256i first_lanes_mask(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline f32x16 load_first(const float* p, int count) {
  return {_mm256_maskload_ps(p, first_lanes_mask(count)), _mm256_maskload_ps(p + 8, first_lanes_mask(count - 8))};
}
inline void store_first(float* p, f32x16 a, int count) {
  _mm256_maskstore_ps(p, first_lanes_mask(count), a.lo);
  _mm256_maskstore_ps(p + 8, first_lanes_mask(count - 8), a.hi);
}
inline f32x16 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline f32x16 load_bf16(const uint16_t* p) {
  __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
inline f32x16 load_i8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8))))};
}
inline void store_i8(int8_t* p, f32x16 a) {
  const __m256i pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i words = _mm256_permute4x64_epi64(pairs, _MM_SHUFFLE(3, 1, 2, 0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline void store_f16(uint16_t* p, f32x16 a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, mode));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, mode));
}
inline f32x16 operator+(f32x16 a, f32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline f32x16 operator-(f32x16 a, f32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline f32x16 operator*(f32x16 a, f32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline f32x16 operator/(f32x16 a, f32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline f32x16 select_first(f32x16 a, f32x16 b, int count) {
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(first_lanes_mask(count))),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(first_lanes_mask(count - 8)))};
}
inline f32x16 round_nearest(f32x16 a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}
inline f32x16 pow2_integral(f32x16 n) {
  __m256i bias = _mm256_set1_epi32(127);
  __m256i lo = _mm256_add_epi32(_mm256_cvtps_epi32(n.lo), bias);
  __m256i hi = _mm256_add_epi32(_mm256_cvtps_epi32(n.hi), bias);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 23)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 23))};
}

#else

struct f32x16 {
  float v[kLanes];
};

template <class F>
inline f32x16 map(F f) {
  f32x16 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}
inline f32x16 zero() {
  return map([](int) { return 0.0f; });
}
inline f32x16 broadcast(float x) {
  return map([=](int) { return x; });
}
inline f32x16 load(const float* p) {
  return map([=](int i) { return p[i]; });
}
inline void store(float* p, f32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
inline f32x16 load_first(const float* p, int count) {
  return map([=](int i) { return i < count ? p[i] : 0.0f; });
}
inline void store_first(float* p, f32x16 a, int count) {
  for (int i = 0; i < count; ++i) p[i] = a.v[i];
}
inline f32x16 load_f16(const uint16_t* p) {
  return map([=](int i) { return f16_to_f32(p[i]); });
}
inline f32x16 load_bf16(const uint16_t* p) {
  return map([=](int i) { return bits_to_float(static_cast<uint32_t>(p[i]) << 16); });
}
inline f32x16 load_i8(const int8_t* p) {
  return map([=](int i) { return static_cast<float>(p[i]); });
}
inline void store_i8(int8_t* p, f32x16 a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}
inline void store_f16(uint16_t* p, f32x16 a) {
  for (int i = 0; i < kLanes; ++i) p[i] = f32_to_f16(a.v[i]);
}
inline f32x16 operator+(f32x16 a, f32x16 b) {
  return map([&](int i) { return a.v[i] + b.v[i]; });
}
inline f32x16 operator-(f32x16 a, f32x16 b) {
  return map([&](int i) { return a.v[i] - b.v[i]; });
}
inline f32x16 operator*(f32x16 a, f32x16 b) {
  return map([&](int i) { return a.v[i] * b.v[i]; });
}
inline f32x16 operator/(f32x16 a, f32x16 b) {
  return map([&](int i) { return a.v[i] / b.v[i]; });
}
// As the vector instruction: the second operand where the comparison is not true.
inline f32x16 max(f32x16 a, f32x16 b) {
  return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32x16 min(f32x16 a, f32x16 b) {
  return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return map([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline f32x16 select_first(f32x16 a, f32x16 b, int count) {
  return map([&](int i) { return i < count ? a.v[i] : b.v[i]; });
}
inline f32x16 round_nearest(f32x16 a) {
  return map([&](int i) { return std::nearbyint(a.v[i]); });
}
inline f32x16 pow2_integral(f32x16 n) {
  return map([&](int i) { return bits_to_float(static_cast<uint32_t>(static_cast<int>(n.v[i]) + 127) << 23); });
}

#endif

// Lane i with lane i + 8, then i + 4, i + 2, i + 1: one tree for all instruction sets.
#if defined(__AVX512F__) || defined(__AVX2__)

template <class Combine8, class Combine4>
inline float reduce(f32x16 a, Combine8 combine8, Combine4 combine4) {
#if defined(__AVX512F__)
  const __m256 eight = combine8(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
#else
  const __m256 eight = combine8(a.lo, a.hi);
#endif
  const __m128 four = combine4(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = combine4(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(combine4(two, _mm_movehdup_ps(two)));
}
inline float reduce_add(f32x16 a) {
  return reduce(
      a, [](__m256 x, __m256 y) { return _mm256_add_ps(x, y); }, [](__m128 x, __m128 y) { return _mm_add_ps(x, y); });
}
inline float reduce_max(f32x16 a) {
  return reduce(
      a, [](__m256 x, __m256 y) { return _mm256_max_ps(x, y); }, [](__m128 x, __m128 y) { return _mm_max_ps(x, y); });
}

// sums[i] = reduce_add(a[i]) for four vectors at once: the same tree, in half the instructions.
inline void reduce_add_four(const f32x16* a, float* sums) {
  __m256 eight[4];
  for (int i = 0; i < 4; ++i) {
#if defined(__AVX512F__)
    eight[i] = _mm256_add_ps(_mm512_castps512_ps256(a[i].v), _mm512_extractf32x8_ps(a[i].v, 1));
#else
    eight[i] = _mm256_add_ps(a[i].lo, a[i].hi);
#endif
  }
  const auto fold_eight = [](__m256 x, __m256 y) {
    return _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
  };
  const __m256 four01 = fold_eight(eight[0], eight[1]), four23 = fold_eight(eight[2], eight[3]);
  const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(four01, four23, _MM_SHUFFLE(1, 0, 1, 0)),
                                   _mm256_shuffle_ps(four01, four23, _MM_SHUFFLE(3, 2, 3, 2)));
  const __m256 one = _mm256_add_ps(two, _mm256_movehdup_ps(two));  // in lanes 0, 4, 2, 6
  const __m256i order = _mm256_setr_epi32(0, 4, 2, 6, 0, 0, 0, 0);
  _mm_storeu_ps(sums, _mm256_castps256_ps128(_mm256_permutevar8x32_ps(one, order)));
}

#else

template <class Combine>
inline float reduce(f32x16 a, Combine combine) {
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) a.v[i] = combine(a.v[i], a.v[i + width]);
  return a.v[0];
}
inline float reduce_add(f32x16 a) {
  return reduce(a, [](float x, float y) { return x + y; });
}
inline float reduce_max(f32x16 a) {
  return reduce(a, [](float x, float y) { return x > y ? x : y; });
}
inline void reduce_add_four(const f32x16* a, float* sums) {
  for (int i = 0; i < 4; ++i) sums[i] = reduce_add(a[i]);
}

#endif

// e^x by range reduction to |r| <= ln(2)/2 and a polynomial of degree 6 (Cephes' coefficients); relative error below
// 2e-7. Results below 2^-126 are 0: x is first clamped to -87.336544 .. 88.02, and lanes below come out as 0. NaN stays
// NaN: where a comparison is not true, max and min give their second operand.
inline f32x16 exp(f32x16 x) {
  const f32x16 lowest = broadcast(-87.336544f);
  const f32x16 clamped = min(broadcast(88.02f), max(lowest, x));
  const f32x16 n = round_nearest(clamped * broadcast(1.44269504088896341f));
  f32x16 r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  f32x16 p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  const f32x16 y = fma(p, r * r, r + broadcast(1.0f)) * pow2_integral(n);
#if defined(__AVX512F__)
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, lowest.v, _CMP_LT_OQ), y.v, zero().v)};
#elif defined(__AVX2__)
  return {_mm256_andnot_ps(_mm256_cmp_ps(x.lo, lowest.lo, _CMP_LT_OQ), y.lo),
          _mm256_andnot_ps(_mm256_cmp_ps(x.hi, lowest.hi, _CMP_LT_OQ), y.hi)};
#else
  return map([&](int i) { return x.v[i] < lowest.v[i] ? 0.0f : y.v[i]; });
#endif
}

inline f32x16 tanh(f32x16 x) {
  const f32x16 one = broadcast(1.0f);
  return one - broadcast(2.0f) / (exp(x + x) + one);
}

}  // namespace transom::TRANSOM_ISA
