// What a batch's attention is about: the layout of a slot, whose rows are whose, where blocks lie; and the storing of
// keys and values. Knows no Python; trusts its pointers, but checks every slot number.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"

namespace transom {

struct KVLayout {
  int num_key_value_heads;
  int head_dim;
  KVType type;

  int64_t head_bytes() const { return 2 * half_bytes(type, head_dim); }
  int64_t slot_bytes() const { return num_key_value_heads * head_bytes(); }
};

// Sequences of a batch: rows starts[s] .. starts[s + 1] are consecutive positions from first_positions[s].
struct Sequences {
  const int32_t* starts;
  const int32_t* first_positions;
  int64_t count;

  int64_t num_rows() const { return starts[count]; }
  int64_t rows_of(int64_t s) const { return starts[s + 1] - starts[s]; }
  int64_t end_position(int64_t s) const { return first_positions[s] + rows_of(s); }
  // Throws std::invalid_argument unless starts ascend from 0 to num_rows and positions are not negative.
  void check(int64_t num_rows) const;
};

constexpr int32_t kNoSlot = -1;  // of a block that is nowhere

// slots[s][b] is where block b of sequence s lies, in slots from the arena's start.
struct BlockTable {
  std::byte* arena;
  int64_t arena_bytes;
  const int32_t* slots;
  int64_t blocks_per_sequence;

  // Throws std::invalid_argument unless these blocks of the sequence are in the table and in the arena, or missing
  // where that is allowed.
  void check(const KVLayout& layout, int64_t sequence, int64_t first_block, int64_t end_block,
             bool allow_missing = false) const;
  bool is_missing(int64_t sequence, int64_t block) const {
    return slots[sequence * blocks_per_sequence + block] == kNoSlot;
  }
  std::byte* block(const KVLayout& layout, int64_t sequence, int64_t block, int head) const {
    const int64_t slot = slots[sequence * blocks_per_sequence + block];
    return arena + slot * layout.slot_bytes() + head * layout.head_bytes();
  }
};

struct TokenRows {
  const float* first;  // [rows][heads][head_dim]
  int64_t row_stride;  // floats
};

// Writes the rows' keys and values to their blocks. Throws as BlockTable::check, before anything is written. Blocks
// until done.
void store_kv(const KVLayout& layout, const BlockTable& table, const Sequences& sequences, TokenRows key,
              TokenRows value);

}  // namespace transom
