#include "attention_run.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>

#include "memory.h"

namespace transom {
namespace {

// Enough lines that unpacking a block's keys and values costs little beside the arithmetic, few enough that the scores
// of a split stay in the second-level cache.
constexpr int64_t kTileLines = 96;
// A tile of no more lines is bound by memory, not by arithmetic.
constexpr int64_t kFewLines = 16;
// Work is shared out in at least so many pieces per thread, if it can be.
constexpr int64_t kPiecesPerThread = 16;
// Scratch for the partial results of cut tiles; more only if those of a single split need it.
constexpr int64_t kPartialFloats = int64_t{1} << 20;

// Scratch of the calling thread, kept from call to call; it grows to the largest batch's need, which the tile size, the
// number of threads and the number of sequences bound.
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

const void* first_block(const SplitMemory& memory) {
  for (const void* block : memory.blocks)
    if (block != nullptr) return block;
  return nullptr;
}

// The scratch of each thread, for tiles of up to `lines` lines.
struct Workers {
  int count;
  int64_t queries_floats;
  int64_t sums;
  int64_t floats;  // of each
  float* memory = nullptr;

  Workers(const AttentionKernels& kernels, int64_t lines, int head_dim)
      : count(num_threads()),
        queries_floats(padded(lines * head_dim)),
        sums(sums_floats(lines, head_dim)),
        floats(queries_floats + 2 * sums + padded(kernels.scratch_floats(lines, head_dim))) {}
  float* queries(int worker) const { return memory + worker * floats; }
  float* running(int worker) const { return queries(worker) + queries_floats; }
  float* partial(int worker) const { return running(worker) + sums; }
  float* kernel(int worker) const { return partial(worker) + sums; }
};

}  // namespace

struct AttentionRun::Step {
  const AttentionKernels& kernels;
  const BlockTable& table;
  SplitRange splits;
  float* kept;                         // running sums go here; null: to the output
  float* output;                       // null unless this step is the last
  bool resumes;                        // kept holds what earlier steps left
  const Measured* measured = nullptr;  // null: nothing is
};

AttentionRun::AttentionRun(const KVLayout& layout, const Sequences& sequences, TokenRows query, int num_heads,
                           AttentionOptions options)
    : layout_(layout),
      sequences_(sequences),
      query_(query),
      num_heads_(num_heads),
      group_(num_heads / layout.num_key_value_heads),
      options_(std::move(options)) {
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
                   [&](const Tile& a, const Tile& b) { return parts_of(a, all).size() > parts_of(b, all).size(); });
}

// Blocks of which the tile sees some token.
AttentionRun::BlockRange AttentionRun::blocks_of(const Tile& tile, Part part) const {
  const VisibleSet& visible = options_.visible[static_cast<size_t>(tile.sequence)];
  const int64_t last = tile.first_position + tile.num_rows - 1;
  if (part == Part::recent) return {first_recent(visible, tile.first_position) / kBlockTokens, last / kBlockTokens + 1};
  if (first_recent(visible, last) == 0) return {0, 0};
  return {0, (visible.keep_first + kBlockTokens - 1) / kBlockTokens};
}

AttentionRun::SplitParts AttentionRun::parts_of(const Tile& tile, SplitRange wanted) const {
  const auto splits_of = [&](BlockRange blocks) {
    return SplitRange{std::max(wanted.first, blocks.first / kSplitBlocks),
                      std::min(wanted.end, (blocks.end + kSplitBlocks - 1) / kSplitBlocks)};
  };
  return {splits_of(blocks_of(tile, Part::first)), splits_of(blocks_of(tile, Part::recent))};
}

void AttentionRun::check(const BlockTable& table, SplitRange wanted) const {
  for (int64_t s = 0; s < sequences_.count; ++s) {
    if (sequences_.rows_of(s) == 0) continue;
    const int64_t first_position = sequences_.first_positions[s];
    const Tile rows = {s, sequences_.starts[s], first_position, static_cast<int>(sequences_.rows_of(s)), 0};
    const auto check_blocks = [&](BlockRange blocks, bool allow_missing) {
      const int64_t first = std::max(blocks.first, wanted.first * kSplitBlocks);
      const int64_t end = std::min(blocks.end, wanted.end * kSplitBlocks);
      if (first < end) table.check(layout_, s, first, end, allow_missing);
    };
    const BlockRange recent = blocks_of(rows, Part::recent);
    check_blocks(blocks_of(rows, Part::first), options_.allow_missing);
    check_blocks(recent, options_.allow_missing);
    check_blocks({first_position / kBlockTokens, recent.end}, false);  // every row sees itself
  }
}

int64_t AttentionRun::most_lines(const Items& items) const {
  int64_t lines = 0;
  for (const Item& item : items) lines = std::max(lines, lines_of(*item.tile));
  return lines;
}

AttentionTile AttentionRun::tile_of(Item item, const float* queries) const {
  const Tile& tile = *item.tile;
  const VisibleSet& visible = options_.visible[static_cast<size_t>(tile.sequence)];
  return {queries, visible, tile.first_position, tile.num_rows, group_, layout_.head_dim, layout_.type};
}

AttentionTile AttentionRun::gather(Item item, float* queries) const {
  const int64_t floats = int64_t{group_} * layout_.head_dim;
  const float* source = query_.first + item.tile->first_row * query_.row_stride + item.head * floats;
  for (int64_t row = 0; row < item.tile->num_rows; ++row)
    std::memcpy(queries + row * floats, source + row * query_.row_stride, static_cast<size_t>(floats) * sizeof(float));
  return tile_of(item, queries);
}

SplitMemory AttentionRun::memory_of(const Step& step, Item item, SplitPart part) const {
  const int64_t sequence = item.tile->sequence;
  SplitMemory memory = {part.split * kSplitTokens, part.part, {}, nullptr, block_sums_at(step, item, part)};
  const BlockRange blocks = blocks_of(*item.tile, part.part);
  const int64_t end = std::min(blocks.end, (part.split + 1) * kSplitBlocks);
  for (int64_t block = std::max(blocks.first, part.split * kSplitBlocks); block < end; ++block) {
    if (step.table.is_missing(sequence, block)) continue;
    memory.blocks[block % kSplitBlocks] = step.table.block(layout_, sequence, block, item.head);
  }
  return memory;
}

// The last row of the sequence is measured.
BlockSums AttentionRun::block_sums_at(const Step& step, Item item, SplitPart part) const {
  if (step.measured == nullptr) return {};
  const BlockSums sums = step.measured->at(item.tile->sequence, part);
  const int64_t head = int64_t{item.head} * group_;
  return {sequences_.end_position(item.tile->sequence) - 1, sums.maximum + head, sums.sums + head * kSplitBlocks};
}

void AttentionRun::attend(const BlockTable& table, float* output) {
  const SplitRange all = {0, std::numeric_limits<int64_t>::max() / kSplitTokens};
  check(table, all);
  run({TRANSOM_PICK(attention_kernels), table, all, nullptr, output, false});
}

void AttentionRun::attend_splits(const BlockTable& table, int64_t first, int64_t count) {
  const SplitRange wanted = {first, first + count};
  check(table, wanted);
  const bool resumes = !kept_.empty();
  if (!resumes) begin_steps();
  run({TRANSOM_PICK(attention_kernels), table, wanted, kept_.data(), nullptr, resumes,
       options_.measure_mass ? &measured_ : nullptr});
}

void AttentionRun::begin_steps() {
  kept_.resize(static_cast<size_t>(kept_floats_));
  if (!options_.measure_mass) return;
  measured_.num_heads = num_heads_;
  measured_.splits = (most_blocks() + kSplitBlocks - 1) / kSplitBlocks;
  for (const Tile& tile : tiles_)
    measured_.first_splits = std::max(measured_.first_splits, parts_of(tile, {0, measured_.splits}).first.size());
  const int64_t parts = sequences_.count * (measured_.first_splits + measured_.splits);
  const auto count = static_cast<size_t>(parts * num_heads_);
  measured_.maxima.assign(count, -std::numeric_limits<float>::infinity());
  measured_.sums.assign(count * kSplitBlocks, 0.0f);
}

int64_t AttentionRun::most_blocks() const {
  int64_t blocks = 0;
  for (int64_t s = 0; s < sequences_.count; ++s)
    blocks = std::max(blocks, (sequences_.end_position(s) + kBlockTokens - 1) / kBlockTokens);
  return blocks;
}

void AttentionRun::mass(float* mass) const {
  if (!options_.measure_mass) throw std::invalid_argument("attention mass was not measured: measure_mass is false");
  check_attended();
  const int64_t blocks = most_blocks();
  std::fill_n(mass, sequences_.count * blocks, 0.0f);
  for (const Tile& tile : tiles_)
    if (tile.first_row + tile.num_rows == sequences_.starts[tile.sequence + 1])
      write_mass(tile, mass + tile.sequence * blocks, blocks);
}

// The tile's last row is its sequence's.
void AttentionRun::write_mass(const Tile& tile, float* mass, int64_t blocks) const {
  const AttentionKernels& kernels = TRANSOM_PICK(attention_kernels);
  std::vector<float> maxima, sums;  // of the last row's heads
  for (int head = 0; head < layout_.num_key_value_heads; ++head) {
    const AttentionSums lines = sums_at(const_cast<float*>(kept_.data()) + kept_at({&tile, head}), lines_of(tile));
    const int64_t end = lines_of(tile);
    maxima.insert(maxima.end(), lines.maximum + end - group_, lines.maximum + end);
    sums.insert(sums.end(), lines.sum + end - group_, lines.sum + end);
  }
  const AttentionSums row = {maxima.data(), sums.data(), nullptr};
  std::vector<float> shares(static_cast<size_t>(measured_.splits * kSplitBlocks));
  const SplitParts parts = parts_of(tile, {0, measured_.splits});
  constexpr int64_t kPartsAhead = 4;  // other threads wrote much of it: it is asked for early
  for (int64_t i = 0; i < parts.size(); ++i) {
    const SplitPart part = parts.at(i);
    if (i + kPartsAhead < parts.size()) measured_.fetch(tile.sequence, parts.at(i + kPartsAhead));
    kernels.add_mass(measured_.at(tile.sequence, part), row, num_heads_, shares.data() + part.split * kSplitBlocks);
  }
  std::copy_n(shares.data(), blocks, mass);
}

BlockSums AttentionRun::Measured::at(int64_t sequence, SplitPart part) const {
  const int64_t place = part.part == Part::first ? part.split : first_splits + part.split;
  const int64_t first = (sequence * (first_splits + splits) + place) * num_heads;
  return {-1, const_cast<float*>(maxima.data()) + first, const_cast<float*>(sums.data()) + first * kSplitBlocks};
}

void AttentionRun::Measured::fetch(int64_t sequence, SplitPart part) const {
  constexpr int64_t kLineFloats = 16;
  const BlockSums sums = at(sequence, part);
  for (int64_t i = 0; i < num_heads; i += kLineFloats) __builtin_prefetch(sums.maximum + i);
  for (int64_t i = 0; i < num_heads * kSplitBlocks; i += kLineFloats) __builtin_prefetch(sums.sums + i);
}

int64_t AttentionRun::kept_at(Item item) const {
  return item.tile->kept + item.head * sums_floats(lines_of(*item.tile), layout_.head_dim);
}

void AttentionRun::check_attended() const {
  if (kept_.size() != static_cast<size_t>(kept_floats_)) throw std::invalid_argument("no split was attended to");
}

void AttentionRun::finish(float* output) const {
  check_attended();
  for (const Tile& tile : tiles_)
    for (int head = 0; head < layout_.num_key_value_heads; ++head)
      write_output({&tile, head}, kept_.data() + kept_at({&tile, head}), output);
}

void AttentionRun::open(const Step& step, Item item, float* running) const {
  const int64_t lines = lines_of(*item.tile), floats = sums_floats(lines, layout_.head_dim);
  if (step.resumes) {
    std::copy_n(step.kept + kept_at(item), floats, running);
  } else {
    std::fill_n(running, floats, 0.0f);
    std::fill_n(running, padded(lines), -std::numeric_limits<float>::infinity());
  }
}

void AttentionRun::close(const Step& step, Item item, const float* running) const {
  if (step.output != nullptr) {
    write_output(item, running, step.output);
  } else {
    std::copy_n(running, sums_floats(lines_of(*item.tile), layout_.head_dim), step.kept + kept_at(item));
  }
}

void AttentionRun::write_output(Item item, const float* running, float* output) const {
  const AttentionKernels& kernels = TRANSOM_PICK(attention_kernels);
  const int head_dim = layout_.head_dim;
  const AttentionSums sums = sums_at(const_cast<float*>(running), lines_of(*item.tile));
  for (int64_t row = 0; row < item.tile->num_rows; ++row) {
    const int64_t line = row * group_;
    const int64_t head = (item.tile->first_row + row) * num_heads_ + int64_t{item.head} * group_;
    kernels.finish({nullptr, sums.sum + line, sums.values + line * padded(head_dim)}, group_, head_dim,
                   output + head * head_dim);
  }
}

// Tiles that one thread takes from their first split to their last, merging in place.
class AttentionRun::WholeTiles {
 public:
  WholeTiles(const AttentionRun& run, const Step& step, const Items& items)
      : run_(run), step_(step), items_(items), workers_(step.kernels, run.most_lines(items), run.layout_.head_dim) {
    workers_.memory = reserve_scratch(workers_.count * workers_.floats);
  }

  void attend() {
    for_each_index(static_cast<int64_t>(items_.size()), workers_.count,
                   [this](int64_t index, int worker) { attend_tile(items_[index], worker); });
  }

 private:
  void attend_tile(Item item, int worker) {
    const int64_t lines = run_.lines_of(*item.tile);
    const AttentionTile tile = run_.gather(item, workers_.queries(worker));
    const AttentionSums partial = sums_at(workers_.partial(worker), lines);
    const AttentionSums running = sums_at(workers_.running(worker), lines);
    const SplitParts parts = run_.parts_of(*item.tile, step_.splits);
    run_.open(step_, item, workers_.running(worker));
    for (int64_t i = 0; i < parts.size(); ++i) {
      SplitMemory memory = run_.memory_of(step_, item, parts.at(i));
      if (i + 1 < parts.size()) memory.next = first_block(run_.memory_of(step_, item, parts.at(i + 1)));
      step_.kernels.attend_split(tile, run_.options_.rule, memory, workers_.kernel(worker), partial);
      step_.kernels.merge_split(tile, memory.part, memory.first_position, partial, running);
    }
    run_.close(step_, item, workers_.running(worker));
  }

  const AttentionRun& run_;
  const Step& step_;
  const Items& items_;
  Workers workers_;
};

// Tiles whose splits different threads take, in rounds: the partial results of as many splits as the scratch holds,
// then their merging, in order of position.
class AttentionRun::CutTiles {
 public:
  CutTiles(const AttentionRun& run, const Step& step, const Items& items)
      : run_(run),
        step_(step),
        items_(items),
        num_items_(static_cast<int64_t>(items.size())),
        workers_(step.kernels, run.most_lines(items), run.layout_.head_dim) {
    for (const Item& item : items) {
      parts_.push_back(run.parts_of(*item.tile, step.splits));
      most_parts_ = std::max(most_parts_, parts_.back().size());
    }
    parts_per_round_ = std::clamp<int64_t>(kPartialFloats / (num_items_ * workers_.sums), 1, most_parts_);
    const int64_t pieces = most_parts_ * num_items_ / (kPiecesPerThread * workers_.count);
    items_per_piece_ = std::clamp<int64_t>(pieces, 1, run.layout_.num_key_value_heads);
    workers_.memory =
        reserve_scratch(workers_.count * workers_.floats + num_items_ * (1 + parts_per_round_) * workers_.sums);
    running_ = workers_.memory + workers_.count * workers_.floats;
    partials_ = running_ + num_items_ * workers_.sums;
  }

  void attend() {
    for (int64_t i = 0; i < num_items_; ++i) run_.open(step_, items_[i], running(i));
    for (int64_t first = 0; first < most_parts_; first += parts_per_round_) {
      round_ = {first, std::min(most_parts_, first + parts_per_round_)};
      const int64_t pieces_per_part = (num_items_ + items_per_piece_ - 1) / items_per_piece_;
      for_each_index(round_.size() * pieces_per_part, workers_.count, [&](int64_t piece, int worker) {
        attend_piece(round_.first + piece / pieces_per_part, piece % pieces_per_part * items_per_piece_, worker);
      });
      for_each_index(num_items_, workers_.count, [this](int64_t i, int) { merge(i); });
    }
    for (int64_t i = 0; i < num_items_; ++i) run_.close(step_, items_[i], running(i));
  }

 private:
  float* running(int64_t i) const { return running_ + i * workers_.sums; }
  float* partial(int64_t i, int64_t part) const {
    return partials_ + ((part - round_.first) * num_items_ + i) * workers_.sums;
  }
  SplitMemory memory_of(int64_t i, int64_t part) const { return run_.memory_of(step_, items_[i], parts_[i].at(part)); }

  // Items of one tile follow each other, and so does their memory.
  void attend_piece(int64_t part, int64_t first, int worker) {
    const int64_t end = std::min(num_items_, first + items_per_piece_);
    for (int64_t i = first; i < end; ++i) {
      if (part >= parts_[i].size()) continue;
      SplitMemory memory = memory_of(i, part);
      if (i + 1 < end && part < parts_[i + 1].size()) memory.next = first_block(memory_of(i + 1, part));
      const AttentionTile tile = run_.gather(items_[i], workers_.queries(worker));
      step_.kernels.attend_split(tile, run_.options_.rule, memory, workers_.kernel(worker),
                                 sums_at(partial(i, part), run_.lines_of(*items_[i].tile)));
    }
  }

  void merge(int64_t i) {
    const int64_t lines = run_.lines_of(*items_[i].tile);
    const AttentionTile tile = run_.tile_of(items_[i], nullptr);
    const int64_t end = std::min(round_.end, parts_[i].size());
    for (int64_t part = round_.first; part < end; ++part) {
      const SplitPart at = parts_[i].at(part);
      step_.kernels.merge_split(tile, at.part, at.split * kSplitTokens, sums_at(partial(i, part), lines),
                                sums_at(running(i), lines));
    }
  }

  const AttentionRun& run_;
  const Step& step_;
  const Items& items_;
  int64_t num_items_;
  Workers workers_;
  std::vector<SplitParts> parts_;  // of each item
  int64_t most_parts_ = 0;
  SplitRange round_ = {0, 0};  // of the items' parts, by number
  int64_t parts_per_round_;
  int64_t items_per_piece_;
  float* running_;
  float* partials_;
};

// Cut are tiles that one thread would keep the others waiting with, and tiles bound by memory: reading the KV heads of
// a split one after the other is reading memory in order.
void AttentionRun::run(const Step& step) const {
  int64_t work = 0;
  for (const Tile& tile : tiles_) work += parts_of(tile, step.splits).size() * layout_.num_key_value_heads;
  Items whole, few_lines, too_long;
  for (const Tile& tile : tiles_) {
    const int64_t parts = parts_of(tile, step.splits).size();
    const bool holds_up = parts * kPiecesPerThread * num_threads() > work;
    Items& items = parts <= 1 ? whole : lines_of(tile) <= kFewLines ? few_lines : holds_up ? too_long : whole;
    for (int head = 0; head < layout_.num_key_value_heads; ++head) items.push_back({&tile, head});
  }
  if (!too_long.empty()) CutTiles(*this, step, too_long).attend();
  if (!whole.empty()) WholeTiles(*this, step, whole).attend();
  if (!few_lines.empty()) CutTiles(*this, step, few_lines).attend();
}

}  // namespace transom
