#include "quantized_layout.h"

#include <algorithm>
#include <cstring>

namespace transom {
namespace {

constexpr int64_t kWeightsPerWord = 4;

uint32_t spread_fifth_bits(uint32_t bits) {
  uint32_t spread = 0;
  for (int k = 0; k < 32; ++k) spread |= (bits >> k & 1u) << (k % kWeightsPerWord * 8 + k / kWeightsPerWord);
  return spread;
}

uint32_t gather_fifth_bits(uint32_t spread) {
  uint32_t bits = 0;
  for (int k = 0; k < 32; ++k) bits |= (spread >> (k % kWeightsPerWord * 8 + k / kWeightsPerWord) & 1u) << k;
  return bits;
}

template <class Function>
void change_word(std::byte* place, Function function) {
  uint32_t word;
  std::memcpy(&word, place, sizeof word);
  word = function(word);
  std::memcpy(place, &word, sizeof word);
}

// Of one row's part of a chunk, every element of a field: move(in the panel, in the row).
template <WeightType type, int field, class Move>
inline void visit_field(int64_t num_blocks, int64_t lane, Move move) {
  constexpr Field kField = panel_format<type>().fields[field];
  int64_t in_panel = field_offset<type>(field, num_blocks) + lane * kField.width;
  for (int64_t block = 0; block < num_blocks; ++block) {
    int64_t in_row = block * facts_of(type).block_bytes + kField.source;
    for (int i = 0; i < kField.count; ++i) {
      move.template operator()<kField.width>(in_panel, in_row);
      in_panel += kField.width * kPanelRows;
      in_row += kField.width;
    }
  }
}

template <WeightType type, class Move>
inline void visit_fields(int64_t num_blocks, int64_t lane, Move move) {
  constexpr int kNumFields = panel_format<type>().num_fields;
  visit_field<type, 0>(num_blocks, lane, move);
  visit_field<type, 1>(num_blocks, lane, move);
  if constexpr (kNumFields > 2) visit_field<type, 2>(num_blocks, lane, move);
  if constexpr (kNumFields > 3) visit_field<type, 3>(num_blocks, lane, move);
  if constexpr (kNumFields > 4) visit_field<type, 4>(num_blocks, lane, move);
}

template <WeightType type, class Function>
void change_fifth_bits(int64_t num_blocks, int64_t lane, std::byte* chunk, Function function) {
  constexpr int kField = panel_format<type>().fifth_bits;
  if constexpr (kField != kNoFifthBits) {
    visit_field<type, kField>(num_blocks, lane,
                              [&]<int width>(int64_t in_panel, int64_t) { change_word(chunk + in_panel, function); });
  }
}

template <WeightType type>
void pack_rows(int64_t in_features, const std::byte* rows, int64_t num_rows, int64_t first_lane, std::byte* panel) {
  const int64_t num_blocks = in_features / facts_of(type).block_size;
  for (int64_t block = 0; block < num_blocks; block += kChunkBlocks<type>) {
    const int64_t blocks = std::min(kChunkBlocks<type>, num_blocks - block);
    std::byte* chunk = panel + block / kChunkBlocks<type> * kChunkBytes<type>;
    for (int64_t row = 0; row < num_rows; ++row) {
      const std::byte* source = rows + (row * num_blocks + block) * facts_of(type).block_bytes;
      const int64_t lane = first_lane + row;
      visit_fields<type>(blocks, lane, [&]<int width>(int64_t in_panel, int64_t in_row) {
        std::memcpy(chunk + in_panel, source + in_row, width);
      });
      change_fifth_bits<type>(blocks, lane, chunk, spread_fifth_bits);
    }
  }
}

template <WeightType type>
void unpack_row(int64_t in_features, const std::byte* panel, int64_t lane, std::byte* row) {
  const int64_t num_blocks = in_features / facts_of(type).block_size;
  for (int64_t block = 0; block < num_blocks; block += kChunkBlocks<type>) {
    const int64_t blocks = std::min(kChunkBlocks<type>, num_blocks - block);
    const std::byte* chunk = panel + block / kChunkBlocks<type> * kChunkBytes<type>;
    std::byte* target = row + block * facts_of(type).block_bytes;
    visit_fields<type>(blocks, lane, [&]<int width>(int64_t in_panel, int64_t in_row) {
      std::memcpy(target + in_row, chunk + in_panel, width);
    });
    if constexpr (constexpr PanelFormat format = panel_format<type>(); format.fifth_bits != kNoFifthBits) {
      const int64_t source = format.fields[format.fifth_bits].source;
      for (int64_t i = 0; i < blocks; ++i)
        change_word(target + i * facts_of(type).block_bytes + source, gather_fifth_bits);
    }
  }
}

}  // namespace

int64_t quantized_panel_bytes(WeightType type, int64_t in_features) {
  return visit_quantized(type, [&]<WeightType kType>() {
    const int64_t num_blocks = in_features / facts_of(kType).block_size;
    const int64_t rest = num_blocks % kChunkBlocks<kType>;
    return num_blocks / kChunkBlocks<kType> * kChunkBytes<kType> + chunk_bytes<kType>(rest);
  });
}

void pack_quantized_rows(WeightType type, int64_t in_features, const std::byte* rows, int64_t num_rows,
                         int64_t first_lane, std::byte* panel) {
  visit_quantized(type, [&]<WeightType kType>() { pack_rows<kType>(in_features, rows, num_rows, first_lane, panel); });
}

void unpack_quantized_row(WeightType type, int64_t in_features, const std::byte* panel, int64_t lane, std::byte* row) {
  visit_quantized(type, [&]<WeightType kType>() { unpack_row<kType>(in_features, panel, lane, row); });
}

}  // namespace transom
