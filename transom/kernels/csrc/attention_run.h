// One attention computation over a batch: cuts it into tiles and splits, shares those out to the threads, and carries
// each line's running softmax from split to split. Knows no Python; trusts its pointers, but checks every slot number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention.h"

namespace transom {

struct KVLayout {
  int num_key_value_heads;
  int head_dim;
  KVType type;

  int64_t head_bytes() const { return int64_t{2} * kBlockTokens * head_dim * (type == KVType::f16 ? 2 : 4); }
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

// slots[s][b] is where block b of sequence s lies, in slots from the arena's start.
struct BlockTable {
  std::byte* arena;
  int64_t arena_bytes;
  const int32_t* slots;
  int64_t blocks_per_sequence;

  // Throws std::invalid_argument unless these blocks of the sequence are in the table and in the arena.
  void check(const KVLayout& layout, int64_t sequence, int64_t first_block, int64_t end_block) const;
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

class AttentionRun {
 public:
  AttentionRun(const KVLayout& layout, const Sequences& sequences, TokenRows query, int num_heads,
               const AttentionRule& rule);

  // The whole attention: output[rows][num_heads][head_dim]. Throws std::invalid_argument (a slot number),
  // std::bad_alloc.
  void attend(const BlockTable& table, float* output);
  // The same in steps: splits [first, first + count) of every sequence, counted from position 0, ascending and each
  // once; then the output. The table needs to name only the blocks of these splits.
  void attend_splits(const BlockTable& table, int64_t first, int64_t count);
  void finish(float* output) const;

 private:
  struct Tile {
    int64_t sequence;
    int64_t first_row;
    int64_t first_position;
    int num_rows;
    int64_t kept;  // where in kept_ its sums begin
  };
  struct SplitRange {
    int64_t first;
    int64_t end;
    int64_t size() const { return end > first ? end - first : 0; }
  };
  struct Step;  // what one call of attend or attend_splits works on
  struct Item {
    const Tile* tile;
    int head;  // KV head
  };
  using Items = std::vector<Item>;

  void build_tiles();
  int64_t lines_of(const Tile& tile) const { return int64_t{tile.num_rows} * group_; }
  SplitRange splits_of(const Tile& tile, SplitRange wanted) const;
  void check(const BlockTable& table, SplitRange wanted) const;
  AttentionTile gather(const Tile& tile, int head, float* queries) const;
  SplitMemory memory_of(const Step& step, const Tile& tile, int64_t split, int head, const void* next) const;

  void run(const Step& step) const;
  void run_whole(const Step& step, const Items& items) const;
  void run_cut(const Step& step, const Items& items) const;
  void open(const Step& step, Item item, float* running) const;
  void close(const Step& step, Item item, const float* running) const;
  void write_output(Item item, const float* running, float* output) const;

  KVLayout layout_;
  Sequences sequences_;
  TokenRows query_;
  int num_heads_;
  int group_;
  AttentionRule rule_;
  std::vector<Tile> tiles_;  // those with most splits first
  int64_t kept_floats_ = 0;
  std::vector<float> kept_;  // running sums between steps; empty until there is one
};

}  // namespace transom
