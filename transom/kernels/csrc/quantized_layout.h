// Where the parts of ggml's blocks lie in a panel of 16 rows.
//
// K is cut into chunks of 256 weights, one block or eight of them (fewer at the end of a row). A chunk of a panel holds
// the fields of its blocks one after the other, each as [block][element][16 rows]: the same bytes as in the file, so
// that one vector has the same piece of 16 rows. Nothing is widened; a chunk is padded to 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "weight_type.h"

namespace transom {

constexpr int64_t kPanelRows = 16;
constexpr int64_t kQuantizedChunk = 256;

// Elements of `width` bytes, `count` of them from byte `source` of the block on. Fields of words come before fields of
// half words, so that vectors of the former are aligned.
struct Field {
  int source;
  int width;
  int count;
};

// Fifth bits of q5_0 and q5_1: one word, in the file bit k for weight k; in a panel bit 8 b + g for weight 4 g + b, so
// that a shift by g brings the bits of four consecutive weights to their four bytes.
constexpr int kNoFifthBits = -1;

struct PanelFormat {
  int num_fields;
  Field fields[5];
  int fifth_bits = kNoFifthBits;  // the index of that field
};

template <WeightType type>
constexpr PanelFormat panel_format() {
  switch (type) {
    case WeightType::q4_0:
    case WeightType::iq4_nl:  // codes, scale
      return {2, {{2, 4, 4}, {0, 2, 1}}};
    case WeightType::q4_1:  // codes, scale, minimum
      return {3, {{4, 4, 4}, {0, 2, 1}, {2, 2, 1}}};
    case WeightType::q5_0:  // codes, fifth bits, scale
      return {3, {{6, 4, 4}, {2, 4, 1}, {0, 2, 1}}, 1};
    case WeightType::q5_1:  // codes, fifth bits, scale, minimum
      return {4, {{8, 4, 4}, {4, 4, 1}, {0, 2, 1}, {2, 2, 1}}, 1};
    case WeightType::q2_k:  // codes, scales and minima, scale of scales, scale of minima
      return {4, {{16, 4, 16}, {0, 4, 4}, {80, 2, 1}, {82, 2, 1}}};
    case WeightType::q3_k:  // low bits, high bits, scales, scale of scales
      return {4, {{32, 4, 16}, {0, 4, 8}, {96, 4, 3}, {108, 2, 1}}};
    case WeightType::q4_k:  // codes, scales and minima, scale of scales, scale of minima
      return {4, {{16, 4, 32}, {4, 4, 3}, {0, 2, 1}, {2, 2, 1}}};
    case WeightType::q5_k:  // codes, fifth bits, scales and minima, scale of scales, scale of minima
      return {5, {{48, 4, 32}, {16, 4, 8}, {4, 4, 3}, {0, 2, 1}, {2, 2, 1}}};
    case WeightType::q6_k:  // low bits, high bits, scales, scale of scales
      return {4, {{0, 4, 32}, {128, 4, 16}, {192, 4, 4}, {208, 2, 1}}};
    case WeightType::iq4_xs:  // codes, low bits of scales, scale of scales, high bits of scales
      return {4, {{8, 4, 32}, {4, 4, 1}, {0, 2, 1}, {2, 2, 1}}};
    default:  // q8_0: codes, scale
      return {2, {{2, 4, 8}, {0, 2, 1}}};
  }
}

// Where a field begins in a chunk of so many blocks.
template <WeightType type>
constexpr int64_t field_offset(int field, int64_t num_blocks) {
  constexpr PanelFormat format = panel_format<type>();
  int64_t offset = 0;
  for (int i = 0; i < field; ++i) offset += format.fields[i].width * format.fields[i].count * kPanelRows * num_blocks;
  return offset;
}

template <WeightType type>
constexpr int64_t chunk_bytes(int64_t num_blocks) {
  return (field_offset<type>(panel_format<type>().num_fields, num_blocks) + 63) / 64 * 64;
}

template <WeightType type>
constexpr int64_t kChunkBlocks = kQuantizedChunk / facts_of(type).block_size;

template <WeightType type>
constexpr int64_t kChunkBytes = chunk_bytes<type>(kChunkBlocks<type>);

int64_t quantized_panel_bytes(WeightType type, int64_t in_features);
// rows[num_rows][row_bytes], of any alignment, become the panel's rows first_lane .. first_lane + num_rows.
void pack_quantized_rows(WeightType type, int64_t in_features, const std::byte* rows, int64_t num_rows,
                         int64_t first_lane, std::byte* panel);
// The other way round, for one row.
void unpack_quantized_row(WeightType type, int64_t in_features, const std::byte* panel, int64_t lane, std::byte* row);

}  // namespace transom
