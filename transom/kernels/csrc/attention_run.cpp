#include "attention_run.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>

#include "memory.h"
#include "thread_pool.h"

namespace transom {
namespace {

// Enough lines that unpacking a block's keys and values costs little beside the arithmetic, few enough that the scores
// of a split stay in the second-level cache.
constexpr int64_t kTileLines = 96;
// A tile with more than this part of one thread's share of all work is cut: its splits go to different threads.
constexpr int64_t kPiecesPerThread = 4;
// Scratch for partial results of cut tiles.
constexpr int64_t kPartialFloats = int64_t{1} << 20;
// Fewer floats than this are stored by the calling thread alone.
constexpr int64_t kParallelStoreFloats = 1 << 15;

const AttentionKernels& active_kernels() { return TRANSOM_PICK(attention_kernels); }

// Scratch of the calling thread, kept from call to call; it grows to the largest batch's need, which the tile size and
// the number of threads bound.
float* reserve_scratch(int64_t floats) {
  thread_local HugeMemory memory;
  thread_local int64_t capacity = 0;
  if (floats > capacity) {
    memory.reset();
    capacity = 0;
    memory = allocate_huge(static_cast<size_t>(floats) * sizeof(float));
    capacity = floats;
  }
  return reinterpret_cast<float*>(memory.get());
}

// Calls task(index, worker) for every index below count; no two calls at a time with the same worker.
void for_each_index(int64_t count, int num_workers, const std::function<void(int64_t, int)>& task) {
  std::atomic<int64_t> next{0};
  parallel_for(std::min<int64_t>(num_workers, count), [&](int64_t worker) {
    for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;)
      task(index, static_cast<int>(worker));
  });
}

int64_t sums_floats(int64_t lines, int head_dim) { return 2 * padded(lines) + lines * padded(head_dim); }

AttentionSums sums_at(float* memory, int64_t lines) {
  return {memory, memory + padded(lines), memory + 2 * padded(lines)};
}

AttentionSums sums_at(const float* memory, int64_t lines) { return sums_at(const_cast<float*>(memory), lines); }

}  // namespace

void Sequences::check(int64_t rows) const {
  bool ascending = starts[0] == 0;
  for (int64_t s = 0; s < count; ++s) ascending = ascending && starts[s] <= starts[s + 1];
  if (!ascending) throw std::invalid_argument("sequence_starts must ascend from 0");
  if (num_rows() != rows) throw std::invalid_argument("sequence_starts must end with the number of rows");
  for (int64_t s = 0; s < count; ++s)
    if (first_positions[s] < 0) throw std::invalid_argument("first_positions must not be negative");
}

void BlockTable::check(const KVLayout& layout, int64_t sequence, int64_t first_block, int64_t end_block) const {
  const int64_t num_slots = arena_bytes / layout.slot_bytes();
  if (end_block > blocks_per_sequence) {
    throw std::invalid_argument("sequence " + std::to_string(sequence) + " needs " + std::to_string(end_block) +
                                " blocks, but block_slots has room for " + std::to_string(blocks_per_sequence));
  }
  for (int64_t block = first_block; block < end_block; ++block) {
    const int64_t slot = slots[sequence * blocks_per_sequence + block];
    if (0 <= slot && slot < num_slots) continue;
    throw std::invalid_argument("block " + std::to_string(block) + " of sequence " + std::to_string(sequence) +
                                " lies in slot " + std::to_string(slot) + ", but the arena has slots 0 .. " +
                                std::to_string(num_slots - 1));
  }
}

void store_kv(const KVLayout& layout, const BlockTable& table, const Sequences& sequences, TokenRows key,
              TokenRows value) {
  std::vector<StorePiece> pieces;
  for (int64_t s = 0; s < sequences.count; ++s) {
    const int64_t begin = sequences.first_positions[s], end = sequences.end_position(s);
    if (begin == end) continue;
    table.check(layout, s, begin / kBlockTokens, (end - 1) / kBlockTokens + 1);
    for (int64_t position = begin; position < end;) {
      const int64_t block = position / kBlockTokens, stop = std::min(end, (block + 1) * kBlockTokens);
      const int64_t row = sequences.starts[s] + position - begin;
      for (int head = 0; head < layout.num_key_value_heads; ++head) {
        pieces.push_back({key.first + row * key.row_stride + head * layout.head_dim,
                          value.first + row * value.row_stride + head * layout.head_dim, key.row_stride,
                          value.row_stride, table.block(layout, s, block, head),
                          static_cast<int>(position % kBlockTokens), static_cast<int>(stop - position), layout.head_dim,
                          layout.type});
      }
      position = stop;
    }
  }
  const AttentionKernels& kernels = active_kernels();
  const int64_t floats = 2 * sequences.num_rows() * layout.num_key_value_heads * layout.head_dim;
  const int num_workers = floats < kParallelStoreFloats ? 1 : num_threads();
  for_each_index(static_cast<int64_t>(pieces.size()), num_workers,
                 [&](int64_t i, int) { kernels.store_piece(pieces[i]); });
}

struct AttentionRun::Step {
  const AttentionKernels& kernels;
  const BlockTable& table;
  SplitRange splits;
  float* kept;    // running sums go here; null: to the output
  float* output;  // null unless this step is the last
  bool resumes;   // kept holds what earlier steps left
};

AttentionRun::AttentionRun(const KVLayout& layout, const Sequences& sequences, TokenRows query, int num_heads,
                           const AttentionRule& rule)
    : layout_(layout),
      sequences_(sequences),
      query_(query),
      num_heads_(num_heads),
      group_(num_heads / layout.num_key_value_heads),
      rule_(rule) {
  build_tiles();
}

void AttentionRun::build_tiles() {
  const int64_t rows_per_tile = std::max<int64_t>(1, kTileLines / group_);
  for (int64_t s = 0; s < sequences_.count; ++s) {
    for (int64_t row = 0; row < sequences_.rows_of(s); row += rows_per_tile) {
      const int rows = static_cast<int>(std::min(rows_per_tile, sequences_.rows_of(s) - row));
      const Tile tile = {s, sequences_.starts[s] + row, sequences_.first_positions[s] + row, rows, kept_floats_};
      kept_floats_ += layout_.num_key_value_heads * sums_floats(lines_of(tile), layout_.head_dim);
      tiles_.push_back(tile);
    }
  }
  const SplitRange all = {0, std::numeric_limits<int64_t>::max()};
  std::stable_sort(tiles_.begin(), tiles_.end(),
                   [&](const Tile& a, const Tile& b) { return splits_of(a, all).size() > splits_of(b, all).size(); });
}

// Splits of the range of which the tile sees some token.
AttentionRun::SplitRange AttentionRun::splits_of(const Tile& tile, SplitRange wanted) const {
  const int64_t first_seen = std::max<int64_t>(0, tile.first_position - rule_.window + 1);
  const int64_t last_seen = tile.first_position + tile.num_rows - 1;
  return {std::max(wanted.first, first_seen / kSplitTokens), std::min(wanted.end, last_seen / kSplitTokens + 1)};
}

void AttentionRun::check(const BlockTable& table, SplitRange wanted) const {
  for (int64_t s = 0; s < sequences_.count; ++s) {
    if (sequences_.rows_of(s) == 0) continue;
    const int64_t first_seen = std::max<int64_t>(0, sequences_.first_positions[s] - rule_.window + 1);
    const int64_t end_seen = sequences_.end_position(s);
    const int64_t first = std::max(first_seen / kBlockTokens, wanted.first * kSplitBlocks);
    const int64_t end = std::min((end_seen - 1) / kBlockTokens + 1, wanted.end * kSplitBlocks);
    if (first < end) table.check(layout_, s, first, end);
  }
}

AttentionTile AttentionRun::gather(const Tile& tile, int head, float* queries) const {
  const int64_t floats = int64_t{group_} * layout_.head_dim;
  for (int64_t row = 0; row < tile.num_rows; ++row) {
    std::memcpy(queries + row * floats, query_.first + (tile.first_row + row) * query_.row_stride + head * floats,
                static_cast<size_t>(floats) * sizeof(float));
  }
  return {queries, tile.first_position, tile.num_rows, group_, layout_.head_dim, layout_.type};
}

SplitMemory AttentionRun::memory_of(const Step& step, const Tile& tile, int64_t split, int head,
                                    const void* next) const {
  SplitMemory memory = {split * kSplitTokens, {}, next};
  const int64_t first_seen = std::max<int64_t>(0, tile.first_position - rule_.window + 1);
  const int64_t last_seen = tile.first_position + tile.num_rows - 1;
  const int64_t first = std::max(first_seen / kBlockTokens, split * kSplitBlocks);
  const int64_t end = std::min(last_seen / kBlockTokens + 1, (split + 1) * kSplitBlocks);
  for (int64_t block = first; block < end; ++block)
    memory.blocks[block % kSplitBlocks] = step.table.block(layout_, tile.sequence, block, head);
  return memory;
}

void AttentionRun::attend(const BlockTable& table, float* output) {
  const SplitRange all = {0, std::numeric_limits<int64_t>::max() / kSplitTokens};
  check(table, all);
  run({active_kernels(), table, all, nullptr, output, false});
}

void AttentionRun::attend_splits(const BlockTable& table, int64_t first, int64_t count) {
  const SplitRange wanted = {first, first + count};
  check(table, wanted);
  const bool resumes = !kept_.empty();
  kept_.resize(static_cast<size_t>(kept_floats_));
  run({active_kernels(), table, wanted, kept_.data(), nullptr, resumes});
}

void AttentionRun::finish(float* output) const {
  if (kept_.size() != static_cast<size_t>(kept_floats_)) throw std::invalid_argument("no split was attended to");
  for (const Tile& tile : tiles_) {
    const int64_t floats = sums_floats(lines_of(tile), layout_.head_dim);
    for (int head = 0; head < layout_.num_key_value_heads; ++head)
      write_output({&tile, head}, kept_.data() + tile.kept + head * floats, output);
  }
}

void AttentionRun::open(const Step& step, Item item, float* running) const {
  const int64_t lines = lines_of(*item.tile), floats = sums_floats(lines, layout_.head_dim);
  if (step.resumes) {
    std::memcpy(running, step.kept + item.tile->kept + item.head * floats, static_cast<size_t>(floats) * sizeof(float));
    return;
  }
  std::fill_n(running, floats, 0.0f);
  std::fill_n(running, padded(lines), -std::numeric_limits<float>::infinity());
}

void AttentionRun::close(const Step& step, Item item, const float* running) const {
  const int64_t floats = sums_floats(lines_of(*item.tile), layout_.head_dim);
  if (step.output != nullptr) {
    write_output(item, running, step.output);
  } else {
    std::memcpy(step.kept + item.tile->kept + item.head * floats, running, static_cast<size_t>(floats) * sizeof(float));
  }
}

void AttentionRun::write_output(Item item, const float* running, float* output) const {
  const AttentionKernels& kernels = active_kernels();
  const int head_dim = layout_.head_dim;
  const AttentionSums sums = sums_at(running, lines_of(*item.tile));
  for (int64_t row = 0; row < item.tile->num_rows; ++row) {
    const int64_t line = row * group_;
    const int64_t head = (item.tile->first_row + row) * num_heads_ + int64_t{item.head} * group_;
    kernels.finish({nullptr, sums.sum + line, sums.values + line * padded(head_dim)}, group_, head_dim,
                   output + head * head_dim);
  }
}

// A tile is done whole by one thread, in-place from split to split, unless that would keep the others waiting.
void AttentionRun::run(const Step& step) const {
  int64_t work = 0;
  for (const Tile& tile : tiles_) work += splits_of(tile, step.splits).size() * layout_.num_key_value_heads;
  Items whole, cut;
  for (const Tile& tile : tiles_) {
    const int64_t splits = splits_of(tile, step.splits).size();
    const bool too_long = splits > 1 && splits * kPiecesPerThread * num_threads() > work;
    for (int head = 0; head < layout_.num_key_value_heads; ++head) (too_long ? cut : whole).push_back({&tile, head});
  }
  run_whole(step, whole);
  run_cut(step, cut);
}

namespace {

// One thread's scratch for tiles of up to `lines` lines.
struct Worker {
  float* queries;
  float* running;
  float* partial;
  float* kernel;

  static int64_t floats(const AttentionKernels& kernels, int64_t lines, int head_dim) {
    return padded(lines * head_dim) + 2 * sums_floats(lines, head_dim) +
           padded(kernels.scratch_floats(lines, head_dim));
  }
  Worker(float* memory, int64_t lines, int head_dim)
      : queries(memory),
        running(queries + padded(lines * head_dim)),
        partial(running + sums_floats(lines, head_dim)),
        kernel(partial + sums_floats(lines, head_dim)) {}
};

}  // namespace

void AttentionRun::run_whole(const Step& step, const Items& items) const {
  int64_t lines = 0;
  for (const Item& item : items) lines = std::max(lines, lines_of(*item.tile));
  const int num_workers = num_threads();
  const int64_t floats = Worker::floats(step.kernels, lines, layout_.head_dim);
  float* scratch = reserve_scratch(num_workers * floats);
  for_each_index(static_cast<int64_t>(items.size()), num_workers, [&](int64_t index, int worker_index) {
    const Worker worker(scratch + worker_index * floats, lines, layout_.head_dim);
    const auto [tile, head] = items[index];
    const AttentionTile queries = gather(*tile, head, worker.queries);
    const AttentionSums partial = sums_at(worker.partial, lines_of(*tile));
    const SplitRange splits = splits_of(*tile, step.splits);
    open(step, items[index], worker.running);
    for (int64_t split = splits.first; split < splits.end; ++split) {
      const bool last = split + 1 >= splits.end;
      const void* next = last ? nullptr : step.table.block(layout_, tile->sequence, (split + 1) * kSplitBlocks, head);
      const SplitMemory memory = memory_of(step, *tile, split, head, next);
      step.kernels.attend_split(queries, rule_, memory, worker.kernel, partial);
      step.kernels.merge_split(queries, rule_, memory.first_position, partial,
                               sums_at(worker.running, lines_of(*tile)));
    }
    close(step, items[index], worker.running);
  });
}

// In rounds: the partial results of as many splits as the scratch holds, then their merging in order of position.
void AttentionRun::run_cut(const Step& step, const Items& items) const {
  if (items.empty()) return;
  const int head_dim = layout_.head_dim;
  int64_t lines = 0;
  SplitRange all = {std::numeric_limits<int64_t>::max(), 0};
  for (const Item& item : items) {
    lines = std::max(lines, lines_of(*item.tile));
    const SplitRange splits = splits_of(*item.tile, step.splits);
    all = {std::min(all.first, splits.first), std::max(all.end, splits.end)};
  }
  const int64_t num_items = static_cast<int64_t>(items.size());
  const int64_t partial_floats = sums_floats(lines, head_dim);
  const int64_t splits_per_round = std::clamp<int64_t>(kPartialFloats / (num_items * partial_floats), 1, all.size());
  const int num_workers = num_threads();
  const int64_t worker_floats = Worker::floats(step.kernels, lines, head_dim);
  float* scratch = reserve_scratch(num_workers * worker_floats + num_items * (1 + splits_per_round) * partial_floats);
  float* running = scratch + num_workers * worker_floats;
  float* partials = running + num_items * partial_floats;

  for (int64_t i = 0; i < num_items; ++i) open(step, items[i], running + i * partial_floats);
  for (int64_t first = all.first; first < all.end; first += splits_per_round) {
    const SplitRange round = {first, std::min(all.end, first + splits_per_round)};
    const auto partial_of = [&](int64_t item, int64_t split) {
      return partials + ((split - round.first) * num_items + item) * partial_floats;
    };
    // Items of one tile differ in the KV head only and lie side by side, as their memory does.
    for_each_index(round.size() * num_items, num_workers, [&](int64_t index, int worker_index) {
      const int64_t split = round.first + index / num_items, i = index % num_items;
      const auto [tile, head] = items[i];
      const SplitRange splits = splits_of(*tile, round);
      if (split < splits.first || split >= splits.end) return;
      const Worker worker(scratch + worker_index * worker_floats, lines, head_dim);
      step.kernels.attend_split(gather(*tile, head, worker.queries), rule_,
                                memory_of(step, *tile, split, head, nullptr), worker.kernel,
                                sums_at(partial_of(i, split), lines_of(*tile)));
    });
    for_each_index(num_items, num_workers, [&](int64_t i, int worker_index) {
      const Worker worker(scratch + worker_index * worker_floats, lines, head_dim);
      const auto [tile, head] = items[i];
      const SplitRange splits = splits_of(*tile, round);
      const AttentionTile queries = gather(*tile, head, worker.queries);
      for (int64_t split = splits.first; split < splits.end; ++split) {
        step.kernels.merge_split(queries, rule_, split * kSplitTokens, sums_at(partial_of(i, split), lines_of(*tile)),
                                 sums_at(running + i * partial_floats, lines_of(*tile)));
      }
    });
  }
  for (int64_t i = 0; i < num_items; ++i) close(step, items[i], running + i * partial_floats);
}

}  // namespace transom
