#include "quantized_activations.h"

#include <algorithm>
#include <limits>

#include "quantized_simd.h"

namespace transom::TRANSOM_ISA {
namespace {

constexpr int kChunk = 256;

// One row's part of a chunk, not yet interleaved.
struct Record {
  int32_t words[kRecordWords];

  int8_t* codes() { return reinterpret_cast<int8_t*>(words + kCodeWords); }
  void set_float(int index, float value) { std::memcpy(words + index, &value, sizeof value); }
};

// size is a multiple of 16. Returns the scale.
float quantize_group(const float* x, int size, int8_t* codes) {
  f32x16 largest = zero(), is_finite = zero();  // 0 times infinity or NaN is NaN
  for (int i = 0; i < size; i += kLanes) {
    const f32x16 values = load(x + i);
    largest = max(largest, max(values, zero() - values));
    is_finite = fma(values, zero(), is_finite);
  }
  const float magnitude = reduce_max(largest);
  const float scale = magnitude / 127.0f;
  const bool finite = reduce_add(is_finite) == 0.0f;
  if (!finite || scale < std::numeric_limits<float>::min()) {
    std::memset(codes, 0, static_cast<size_t>(size));
    return finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const f32x16 factor = broadcast(127.0f / magnitude);
  for (int i = 0; i < size; i += kLanes) store_bytes(codes + i, round_nearest(load(x + i) * factor));
  return scale;
}

// Of 16 or 32 codes: of bytes 0 and 1, and of bytes 2 and 3 of each word.
struct Sums {
  int first_pairs, second_pairs;

  int whole() const { return first_pairs + second_pairs; }
};

Sums operator+(Sums a, Sums b) { return {a.first_pairs + b.first_pairs, a.second_pairs + b.second_pairs}; }

Sums negative_sums(const int8_t* codes) {
  int sums[4] = {};
  for (int i = 0; i < 16; i += 4)
    for (int b = 0; b < 4; ++b) sums[b] -= codes[i + b];
  return {sums[0] + sums[1], sums[2] + sums[3]};
}

int32_t pair_of(int low, int high) {
  return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffffu) | static_cast<uint32_t>(high) << 16);
}

// Groups in fours: 0 with 2, and 1 with 3.
void set_pairs(const Sums* sums, int count, int32_t* words) {
  for (int i = 0; i < count; i += 4) {
    for (int j = 0; j < 2; ++j) words[i / 2 + j] = pair_of(sums[i + j].whole(), sums[i + j + 2].whole());
  }
}

void quantize_chunk(const float* x, int size, Grouping grouping, Record& record) {
  int8_t* codes = record.codes();
  float scales[8] = {};
  const int group = grouping == Grouping::by_256 ? 256 : 32;
  for (int i = 0; i < size; i += group) scales[i / group] = quantize_group(x + i, group, codes + i);
  std::memset(codes + size, 0, static_cast<size_t>(kChunk - size));
  Sums sums16[16], sums32[8];
  for (int i = 0; i < 16; ++i) sums16[i] = negative_sums(codes + 16 * i);
  for (int i = 0; i < 8; ++i) sums32[i] = sums16[2 * i] + sums16[2 * i + 1];
  for (int i = 0; i < 16; ++i) record.words[kStarts16 + i] = start_of(sums16[i].first_pairs, sums16[i].second_pairs);
  for (int i = 0; i < 8; ++i) record.words[kStarts32 + i] = start_of(sums32[i].first_pairs, sums32[i].second_pairs);
  if (grouping == Grouping::by_256) {
    set_pairs(sums16, 16, record.words + kPairSums16);
    set_pairs(sums32, 8, record.words + kPairSums32);
    record.set_float(kScale, scales[0]);
  } else {
    for (int i = 0; i < 8; ++i) {
      record.set_float(kScales + i, scales[i]);
      record.set_float(kScaledSums + i, scales[i] * static_cast<float>(-sums32[i].whole()));
    }
  }
}

void quantize_tile(const float* rows, int64_t num_rows, int64_t in_features, Grouping grouping, int32_t* records,
                   int64_t chunk_stride) {
  for (int64_t k = 0; k < in_features; k += kChunk) {
    int32_t* target = records + k / kChunk * chunk_stride;
    const int size = static_cast<int>(std::min<int64_t>(kChunk, in_features - k));
    for (int64_t row = 0; row < num_rows; ++row) {
      Record record = {};
      quantize_chunk(rows + row * in_features + k, size, grouping, record);
      for (int word = 0; word < kRecordWords; ++word) target[word * num_rows + row] = record.words[word];
    }
  }
}

}  // namespace

extern const ActivationKernels activation_kernels = {&quantize_tile};

}  // namespace transom::TRANSOM_ISA
