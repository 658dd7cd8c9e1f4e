// One attention computation over a batch: cuts it into tiles and splits, shares those out to the threads, and carries
// each line's running softmax from split to split. Knows no Python.
#pragma once

#include <cstdint>
#include <vector>

#include "attention_batch.h"

namespace transom {

struct AttentionOptions {
  AttentionRule rule;
  std::vector<VisibleSet> visible;  // of each sequence
  bool allow_missing = false;       // nobody sees blocks whose slot is kNoSlot
  bool measure_mass = false;        // only in steps
};

class AttentionRun {
 public:
  AttentionRun(const KVLayout& layout, const Sequences& sequences, TokenRows query, int num_heads,
               AttentionOptions options);

  // The whole attention: output[rows][num_heads][head_dim]. Throws std::invalid_argument (a slot number),
  // std::bad_alloc.
  void attend(const BlockTable& table, float* output);
  // The same in steps: splits [first, first + count) of every sequence, counted from position 0, ascending and each
  // once; then the output. The table needs to name only the blocks of these splits.
  void attend_splits(const BlockTable& table, int64_t first, int64_t count);
  void finish(float* output) const;
  // Then, if measured: mass[sequences][most_blocks()], the share of its attention that each sequence's last row gives
  // to each block, mean over heads. Throws std::invalid_argument if it was not measured.
  void mass(float* mass) const;
  int64_t most_blocks() const;

 private:
  struct Tile {
    int64_t sequence;
    int64_t first_row;
    int64_t first_position;
    int num_rows;
    int64_t kept;  // where in kept_ its sums begin
  };
  struct BlockRange {
    int64_t first;
    int64_t end;
  };
  struct SplitRange {
    int64_t first;
    int64_t end;
    int64_t size() const { return end > first ? end - first : 0; }
  };
  struct SplitPart {
    int64_t split;
    Part part;
  };
  // What a tile sees, in the order of merging.
  struct SplitParts {
    SplitRange first;
    SplitRange recent;
    int64_t size() const { return first.size() + recent.size(); }
    SplitPart at(int64_t i) const {
      return i < first.size() ? SplitPart{first.first + i, Part::first}
                              : SplitPart{recent.first + i - first.size(), Part::recent};
    }
  };
  // What the last row of each sequence gives to the blocks. The heads of a split lie together: they are written
  // together, while the reading of keys and values empties the caches.
  struct Measured {
    int64_t num_heads = 0;
    int64_t first_splits = 0;
    int64_t splits = 0;
    std::vector<float> maxima;  // [sequences][first parts, then recent ones][num_heads]
    std::vector<float> sums;    // and as many times kSplitBlocks
    BlockSums at(int64_t sequence, SplitPart part) const;
    void fetch(int64_t sequence, SplitPart part) const;  // asks the caches for it
  };
  struct Step;  // what one call of attend or attend_splits works on
  struct Item {
    const Tile* tile;
    int head;  // KV head
  };
  using Items = std::vector<Item>;

  class WholeTiles;
  class CutTiles;

  void build_tiles();
  int64_t lines_of(const Tile& tile) const { return int64_t{tile.num_rows} * group_; }
  int64_t most_lines(const Items& items) const;
  int64_t kept_at(Item item) const;
  void begin_steps();
  void check_attended() const;
  BlockRange blocks_of(const Tile& tile, Part part) const;
  SplitParts parts_of(const Tile& tile, SplitRange wanted) const;
  void check(const BlockTable& table, SplitRange wanted) const;

  AttentionTile tile_of(Item item, const float* queries) const;
  AttentionTile gather(Item item, float* queries) const;
  SplitMemory memory_of(const Step& step, Item item, SplitPart part) const;
  BlockSums block_sums_at(const Step& step, Item item, SplitPart part) const;
  void write_mass(const Tile& tile, float* mass, int64_t blocks) const;

  void run(const Step& step) const;
  void open(const Step& step, Item item, float* running) const;
  void close(const Step& step, Item item, const float* running) const;
  void write_output(Item item, const float* running, float* output) const;

  KVLayout layout_;
  Sequences sequences_;
  TokenRows query_;
  int num_heads_;
  int group_;
  AttentionOptions options_;
  std::vector<Tile> tiles_;  // those with most splits first
  int64_t kept_floats_ = 0;
  std::vector<float> kept_;  // running sums between steps; empty until there is one
  Measured measured_;
};

}  // namespace transom
