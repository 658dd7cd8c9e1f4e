#include "attention_batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"

namespace transom {

void Sequences::check(int64_t rows) const {
  bool ascending = starts[0] == 0;
  for (int64_t s = 0; s < count; ++s) ascending = ascending && starts[s] <= starts[s + 1];
  if (!ascending) throw std::invalid_argument("sequence_starts must ascend from 0");
  if (num_rows() != rows) throw std::invalid_argument("sequence_starts must end with the number of rows");
  for (int64_t s = 0; s < count; ++s)
    if (first_positions[s] < 0) throw std::invalid_argument("first_positions must not be negative");
}

void BlockTable::check(const KVLayout& layout, int64_t sequence, int64_t first_block, int64_t end_block,
                       bool allow_missing) const {
  const int64_t num_slots = arena_bytes / layout.slot_bytes();
  if (end_block > blocks_per_sequence) {
    throw std::invalid_argument("sequence " + std::to_string(sequence) + " needs " + std::to_string(end_block) +
                                " blocks, but block_slots has room for " + std::to_string(blocks_per_sequence));
  }
  for (int64_t block = first_block; block < end_block; ++block) {
    const int64_t slot = slots[sequence * blocks_per_sequence + block];
    if (0 <= slot && slot < num_slots) continue;
    if (allow_missing && slot == kNoSlot) continue;
    throw std::invalid_argument("block " + std::to_string(block) + " of sequence " + std::to_string(sequence) +
                                " lies in slot " + std::to_string(slot) + ", but the arena has slots 0 .. " +
                                std::to_string(num_slots - 1));
  }
}

namespace {

// The rows of one sequence, cut where blocks end, for each KV head.
void add_pieces(const KVLayout& layout, const BlockTable& table, const Sequences& sequences, int64_t s, TokenRows key,
                TokenRows value, std::vector<StorePiece>& pieces) {
  const int64_t begin = sequences.first_positions[s], end = sequences.end_position(s);
  for (int64_t position = begin, stop; position < end; position = stop) {
    const int64_t block = position / kBlockTokens, row = sequences.starts[s] + position - begin;
    stop = std::min(end, (block + 1) * kBlockTokens);
    for (int head = 0; head < layout.num_key_value_heads; ++head) {
      const int64_t channel = int64_t{head} * layout.head_dim;
      pieces.push_back({key.first + row * key.row_stride + channel, value.first + row * value.row_stride + channel,
                        key.row_stride, value.row_stride, table.block(layout, s, block, head),
                        static_cast<int>(position % kBlockTokens), static_cast<int>(stop - position), layout.head_dim,
                        layout.type});
    }
  }
}

}  // namespace

void store_kv(const KVLayout& layout, const BlockTable& table, const Sequences& sequences, TokenRows key,
              TokenRows value) {
  std::vector<StorePiece> pieces;
  for (int64_t s = 0; s < sequences.count; ++s) {
    if (sequences.rows_of(s) == 0) continue;
    table.check(layout, s, sequences.first_positions[s] / kBlockTokens,
                (sequences.end_position(s) - 1) / kBlockTokens + 1);
    add_pieces(layout, table, sequences, s, key, value, pieces);
  }
  const AttentionKernels& kernels = TRANSOM_PICK(attention_kernels);
  const int64_t floats = 2 * sequences.num_rows() * layout.num_key_value_heads * layout.head_dim;
  share_out(static_cast<int64_t>(pieces.size()), floats, [&](int64_t i) { kernels.store_piece(pieces[i]); });
}

}  // namespace transom
