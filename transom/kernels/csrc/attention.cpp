// Paged attention over one split: scores, softmax and weighted values, compiled once per instruction set.
//
// The order of operations of a line (one row, one head) is fixed: a score is a chain of FMAs over head_dim, lane =
// token; the maximum runs over the split's visible tokens; the weights' sum is that of the blocks in order, each
// block's made of sixteen lanes; a channel of the weighted values is a chain of FMAs over the visible tokens. Register
// tiles, packing and the other lines of a tile only decide when each chain's next link is computed. A token a line must
// not see never enters its chains: keys and values behind the mask may be uninitialised memory.
#include "attention.h"

#include "attention_block.h"
#include "attention_product.h"
#include "simd.h"

namespace transom::TRANSOM_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr float kLowest = -3.40282347e+38f;

inline Range block_range(int64_t block) { return {block * kBlockTokens, (block + 1) * kBlockTokens}; }

// ---- What a row sees ------------------------------------------------------------------------------------------------

inline Range visible_tokens(const AttentionTile& tile, Part part, int64_t split_position, int64_t row) {
  const int64_t position = tile.first_position + row, recent = first_recent(tile.visible, position);
  const Range seen =
      part == Part::recent ? Range{recent, position + 1} : Range{0, recent > 0 ? tile.visible.keep_first : 0};
  return {clamped(seen.begin - split_position, 0, kSplitTokens), clamped(seen.end - split_position, 0, kSplitTokens)};
}

// The first row whose recent part begins at this position or later; num_rows if none does.
inline int64_t first_row_without(const AttentionTile& tile, int64_t position) {
  Range rows = {0, tile.num_rows};
  while (!rows.empty()) {
    const int64_t row = (rows.begin + rows.end) / 2;
    if (first_recent(tile.visible, tile.first_position + row) < position) {
      rows.begin = row + 1;
    } else {
      rows.end = row;
    }
  }
  return rows.begin;
}

inline Range visible_rows(const AttentionTile& tile, Part part, int64_t split_position) {
  if (part == Part::recent) {
    return {clamped(split_position - tile.first_position, 0, tile.num_rows),
            first_row_without(tile, split_position + kSplitTokens)};
  }
  if (tile.visible.keep_first <= split_position) return {0, 0};
  return {first_row_without(tile, 1), tile.num_rows};
}

inline AttentionTile rows_of(const AttentionTile& tile, Range rows) {
  AttentionTile part = tile;
  part.query += rows.begin * tile.group * tile.head_dim;
  part.first_position += rows.begin;
  part.num_rows = static_cast<int>(rows.end - rows.begin);
  return part;
}

inline AttentionSums lines_from(AttentionSums sums, int64_t line, int head_dim) {
  return {sums.maximum + line, sums.sum + line, sums.values + line * padded(head_dim)};
}

// ---- Keys and values in place, or packed ----------------------------------------------------------------------------

// Up to this many lines, converting elements on the fly (once per register tile, of which there are few then) costs
// less than the way through packed memory.
constexpr int64_t kMaxDirectLines = 16;

// ---- One split ------------------------------------------------------------------------------------------------------

struct Scratch {
  Lines scores;   // [lines][256]
  float* packed;  // keys or values of one block as float
  float* scales;  // of the keys or values of one block
};

int64_t scratch_floats(int64_t lines, int head_dim) {
  return lines * kSplitTokens + kBlockTokens * (padded(head_dim) + groups_of(head_dim));
}

// The rows of a tile that see some of one split, and that split.
struct Task {
  const AttentionTile& tile;
  const AttentionRule& rule;
  const SplitMemory& split;
  int64_t lines() const { return static_cast<int64_t>(tile.num_rows) * tile.group; }
  Range visible(int64_t row) const { return visible_tokens(tile, split.part, split.first_position, row); }
  Range visible_to_any() const { return {visible(0).begin, visible(tile.num_rows - 1).end}; }
};

// The keys and values of a split are read block by block: first all keys, then all values, then the next split. Where
// nothing follows, what is just being read is asked for again, which costs nothing.
inline const void* block_from(const SplitMemory& split, int64_t block) {
  while (block < kSplitBlocks && split.blocks[block] == nullptr) ++block;
  return block < kSplitBlocks ? split.blocks[block] : nullptr;
}

template <class Block>
Ahead<typename Block::Element> after_keys(const Task& task, int64_t block) {
  const void* following = block_from(task.split, block + 1);
  if (following != nullptr) return {Block::keys(following)};
  return {Block::values(block_from(task.split, 0), task.tile.head_dim)};
}

template <class Block>
Ahead<typename Block::Element> after_values(const Task& task, int64_t block) {
  const void* following = block_from(task.split, block + 1);
  if (following != nullptr) return {Block::values(following, task.tile.head_dim)};
  return {Block::keys(task.split.next != nullptr ? task.split.next : task.split.blocks[block])};
}

// Calls visit(block, tokens of the range in it) for the blocks that are there.
template <class Visit>
void for_each_block(const SplitMemory& split, Range tokens, const Visit& visit) {
  for (int64_t block = tokens.begin / kBlockTokens; block * kBlockTokens < tokens.end; ++block)
    if (split.blocks[block] != nullptr) visit(block, intersection(tokens, block_range(block)));
}

inline Range in_block(Range tokens, int64_t block) {
  return {tokens.begin - block * kBlockTokens, tokens.end - block * kBlockTokens};
}

// Lanes behind the mask get whatever their keys give.
template <class Block>
void score_block(const Task& task, int64_t block, Range tokens, const Scratch& scratch) {
  const AttentionTile& tile = task.tile;
  const Range within = in_block(tokens, block);
  const Range panels = {within.begin / kLanes, (within.end + kLanes - 1) / kLanes};
  const Lines queries = {const_cast<float*>(tile.query), tile.head_dim};
  const Lines scores = scratch.scores.from(0, block * kBlockTokens);
  const auto ahead = after_keys<Block>(task, block);
  const auto keys = Block::key_panels(Block::keys(task.split.blocks[block]), tile.head_dim, scratch.scales, ahead.next);
  if (task.lines() <= kMaxDirectLines) {
    multiply(task.lines(), queries, keys, panels, tile.head_dim, scores, false, ahead);
  } else {
    multiply(task.lines(), queries, pack_keys(keys, tile.head_dim, panels, scratch.packed), panels, tile.head_dim,
             scores, false, ahead);
  }
}

inline f32x16 final_scores(f32x16 products, const AttentionRule& rule) {
  const f32x16 scores = products * broadcast(rule.scale);
  if (rule.soft_cap == 0.0f) return scores;
  return broadcast(rule.soft_cap) * tanh(scores / broadcast(rule.soft_cap));
}

// Scores of tokens outside the range become -infinity. The vector's first lane is token `first`.
inline f32x16 masked(f32x16 scores, Range visible, int64_t first) {
  if (visible.begin <= first && first + kLanes <= visible.end) return scores;
  const f32x16 hidden = broadcast(-kInfinity);
  const f32x16 begun = select_first(hidden, scores, static_cast<int>(clamped(visible.begin - first, 0, kLanes)));
  return select_first(begun, hidden, static_cast<int>(clamped(visible.end - first, 0, kLanes)));
}

inline float mask_and_maximum(const Task& task, float* scores, Range visible) {
  f32x16 highest = broadcast(-kInfinity);
  for_each_block(task.split, visible, [&](int64_t, Range tokens) {
    for (int64_t first = tokens.begin / kLanes * kLanes; first < tokens.end; first += kLanes) {
      const f32x16 lanes = masked(final_scores(load(scores + first), task.rule), tokens, first);
      store(scores + first, lanes);
      highest = max(highest, lanes);
    }
  });
  return reduce_max(highest);
}

// Turns scores into weights exp(score - maximum), and writes the sum of each block's weights, 0 where none are seen.
inline void weigh(const Task& task, float* scores, Range visible, float maximum, float* block_sums) {
  static_assert(kSplitBlocks == 4, "as many as reduce_add_four takes");
  const f32x16 highest = broadcast(maximum);
  f32x16 totals[kSplitBlocks] = {zero(), zero(), zero(), zero()};
  for_each_block(task.split, visible, [&](int64_t block, Range tokens) {
    f32x16 total = zero();
    for (int64_t first = tokens.begin / kLanes * kLanes; first < tokens.end; first += kLanes) {
      const f32x16 weights = exp(load(scores + first) - highest);
      store(scores + first, weights);
      total = total + weights;
    }
    totals[block] = total;
  });
  reduce_add_four(totals, block_sums);
}

void softmax_row(const Task& task, int64_t row, const Scratch& scratch, AttentionSums partial) {
  const Range visible = task.visible(row);
  const BlockSums& measured = task.split.block_sums;
  const bool is_measured = task.tile.first_position + row == measured.position;
  for (int64_t head = 0; head < task.tile.group; ++head) {
    const int64_t line = row * task.tile.group + head;
    float* scores = scratch.scores.from(line, 0).first;
    float unmeasured[kSplitBlocks];
    float* sums = is_measured ? measured.sums + head * kSplitBlocks : unmeasured;
    const float maximum = mask_and_maximum(task, scores, visible);
    weigh(task, scores, visible, maximum, sums);
    partial.maximum[line] = maximum;
    partial.sum[line] = ((sums[0] + sums[1]) + sums[2]) + sums[3];
    if (is_measured) measured.maximum[head] = maximum;
  }
}

// Adds the weighted values of some tokens of a block to some rows, which must all see them.
template <class Source, class Fetch>
void add_values(const Task& task, Range rows, Range tokens, int64_t block, Source values, const Scratch& scratch,
                AttentionSums partial, Fetch ahead) {
  const int64_t line = rows.begin * task.tile.group;
  const int64_t lines = (rows.end - rows.begin) * task.tile.group;
  const int64_t stride = padded(task.tile.head_dim);
  const Range channels = {0, stride / kLanes};
  multiply(lines, scratch.scores.from(line, tokens.begin), values.from(tokens.begin - block * kBlockTokens, 0),
           channels, tokens.end - tokens.begin, Lines{partial.values + line * stride, stride}, true, ahead);
}

// Rows of a tile see different tokens only near its diagonal and the window's edge. What all of them see they take
// together; what comes before and after it, each half of them by itself, and so on.
template <class Source, class Fetch>
void add_block(const Task& task, Range rows, Range tokens, int64_t block, Source values, const Scratch& scratch,
               AttentionSums partial, Fetch ahead) {
  const Range shared = intersection({task.visible(rows.end - 1).begin, task.visible(rows.begin).end}, tokens);
  const int64_t half = (rows.begin + rows.end) / 2;
  const auto add_halves = [&](Range part) {
    if (rows.begin == half || part.empty()) return;
    add_block(task, {rows.begin, half}, part, block, values, scratch, partial, NothingAhead{});
    add_block(task, {half, rows.end}, part, block, values, scratch, partial, NothingAhead{});
  };
  if (shared.empty()) return add_halves(tokens);
  add_halves({tokens.begin, shared.begin});
  add_values(task, rows, shared, block, values, scratch, partial, ahead);
  add_halves({shared.end, tokens.end});
}

template <class Block>
void weigh_block(const Task& task, int64_t block, Range tokens, const Scratch& scratch, AttentionSums partial) {
  const int head_dim = task.tile.head_dim;
  const auto ahead = after_values<Block>(task, block);
  const auto* first = Block::values(task.split.blocks[block], head_dim);
  const auto values = Block::value_panels(first, head_dim, scratch.scales, ahead.next);
  const Range rows = {0, task.tile.num_rows};
  if (task.lines() <= kMaxDirectLines && head_dim % kLanes == 0) {
    add_block(task, rows, tokens, block, values, scratch, partial, ahead);
  } else {
    const Panels<float> packed = pack_values(values, head_dim, in_block(tokens, block), scratch.packed);
    add_block(task, rows, tokens, block, packed, scratch, partial, ahead);
  }
}

// The block sums are written once, long after they were made: asked for here, the stores need not wait for memory.
void fetch_for_writing(const BlockSums& measured, int64_t group) {
  constexpr int64_t kLineFloats = 16;
  if (measured.sums == nullptr) return;
  __builtin_prefetch(measured.maximum, 1);
  for (int64_t i = 0; i < group * kSplitBlocks; i += kLineFloats) __builtin_prefetch(measured.sums + i, 1);
}

template <class Block>
void attend_visible_rows(const Task& task, const Scratch& scratch, AttentionSums partial) {
  fetch_for_writing(task.split.block_sums, task.tile.group);
  const Range visible = task.visible_to_any();
  for_each_block(task.split, visible,
                 [&](int64_t block, Range tokens) { score_block<Block>(task, block, tokens, scratch); });
  for (int64_t row = 0; row < task.tile.num_rows; ++row) softmax_row(task, row, scratch, partial);
  std::memset(partial.values, 0, static_cast<size_t>(task.lines() * padded(task.tile.head_dim)) * sizeof(float));
  for_each_block(task.split, visible,
                 [&](int64_t block, Range tokens) { weigh_block<Block>(task, block, tokens, scratch, partial); });
}

void attend_split(const AttentionTile& tile, const AttentionRule& rule, const SplitMemory& split, float* memory,
                  AttentionSums partial) {
  const Range rows = visible_rows(tile, split.part, split.first_position);
  if (rows.empty()) return;
  const AttentionTile part = rows_of(tile, rows);
  const Task task = {part, rule, split};
  float* packed = memory + task.lines() * kSplitTokens;
  const Scratch scratch = {{memory, kSplitTokens}, packed, packed + kBlockTokens * padded(tile.head_dim)};
  const AttentionSums target = lines_from(partial, rows.begin * tile.group, tile.head_dim);
  switch (tile.type) {
    case KVType::f32:
      return attend_visible_rows<PlainBlock<float>>(task, scratch, target);
    case KVType::f16:
      return attend_visible_rows<PlainBlock<uint16_t>>(task, scratch, target);
    case KVType::q8_0:
      return attend_visible_rows<QuantisedBlock>(task, scratch, target);
  }
}

// ---- Merging and finishing ------------------------------------------------------------------------------------------

inline void add_scaled(float* values, float old_factor, const float* added, float added_factor, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes)
    store(values + i, fma(load(added + i), broadcast(added_factor), load(values + i) * broadcast(old_factor)));
}

// At most sixteen lines, one lane each. An empty state (maximum -infinity, sum 0) leaves the other as it is; the lowest
// finite maximum keeps two of them from being not a number.
inline void merge_lines(AttentionSums partial, AttentionSums running, int count, int head_dim) {
  const f32x16 old_maximum = load_first(running.maximum, count);
  const f32x16 new_maximum = load_first(partial.maximum, count);
  const f32x16 maximum = max(broadcast(kLowest), max(old_maximum, new_maximum));
  const f32x16 old_factor = exp(old_maximum - maximum);
  const f32x16 new_factor = exp(new_maximum - maximum);
  const f32x16 old_sum = load_first(running.sum, count) * old_factor;
  store_first(running.maximum, maximum, count);
  store_first(running.sum, fma(load_first(partial.sum, count), new_factor, old_sum), count);
  float old_factors[kLanes], new_factors[kLanes];
  store(old_factors, old_factor);
  store(new_factors, new_factor);
  const int64_t stride = padded(head_dim);
  for (int i = 0; i < count; ++i) {
    if (partial.sum[i] == 0.0f) continue;
    add_scaled(running.values + i * stride, old_factors[i], partial.values + i * stride, new_factors[i], stride);
  }
}

void merge_split(const AttentionTile& tile, Part part, int64_t split_position, AttentionSums partial,
                 AttentionSums running) {
  const Range rows = visible_rows(tile, part, split_position);
  const int64_t end = rows.end * tile.group;
  for (int64_t line = rows.begin * tile.group; line < end; line += kLanes) {
    merge_lines(lines_from(partial, line, tile.head_dim), lines_from(running, line, tile.head_dim),
                static_cast<int>(smaller(kLanes, end - line)), tile.head_dim);
  }
}

// A lane stands for one of four heads and a block: sixteen heads are four vectors of sums.
void add_mass(BlockSums part, const AttentionSums& row, int64_t num_heads, float* mass) {
  const f32x16 heads = broadcast(static_cast<float>(num_heads));
  f32x16 total = zero();
  for (int64_t first = 0; first < num_heads; first += kLanes) {
    const int count = static_cast<int>(smaller(kLanes, num_heads - first));
    const f32x16 grown = load_first(part.maximum + first, count) - load_first(row.maximum + first, count);
    const f32x16 factor = exp(grown) / (load_first(row.sum + first, count) * heads);
    float factors[kLanes], of_blocks[kLanes * kSplitBlocks];
    store(factors, select_first(factor, zero(), count));
    for (int i = 0; i < kLanes; ++i)
      for (int block = 0; block < kSplitBlocks; ++block) of_blocks[i * kSplitBlocks + block] = factors[i];
    const float* sums = part.sums + first * kSplitBlocks;
    for (int i = 0; i < count * kSplitBlocks; i += kLanes) {
      const int lanes = static_cast<int>(smaller(kLanes, count * kSplitBlocks - i));
      total = fma(load_first(sums + i, lanes), load(of_blocks + i), total);
    }
  }
  float lanes[kLanes];
  store(lanes, total);
  for (int block = 0; block < kSplitBlocks; ++block)
    mass[block] += (lanes[block] + lanes[block + 8]) + (lanes[block + 4] + lanes[block + 12]);
}

void finish(AttentionSums running, int64_t lines, int head_dim, float* output) {
  for (int64_t line = 0; line < lines; ++line) {
    const float* values = running.values + line * padded(head_dim);
    const f32x16 sum = broadcast(running.sum[line]);
    for (int d = 0; d < head_dim; d += kLanes) {
      store_first(output + line * head_dim + d, load(values + d) / sum,
                  static_cast<int>(smaller(kLanes, head_dim - d)));
    }
  }
}

// ---- Storing --------------------------------------------------------------------------------------------------------

template <class Block>
void store_tokens(const StorePiece& piece) {
  for (int64_t token = 0; token < piece.num_tokens; ++token)
    Block::store(piece.block, piece.head_dim, piece.first_column + token, piece.key + token * piece.key_stride,
                 piece.value + token * piece.value_stride);
}

void store_piece(const StorePiece& piece) {
  switch (piece.type) {
    case KVType::f32:
      return store_tokens<PlainBlock<float>>(piece);
    case KVType::f16:
      return store_tokens<PlainBlock<uint16_t>>(piece);
    case KVType::q8_0:
      return store_tokens<QuantisedBlock>(piece);
  }
}

}  // namespace

extern const AttentionKernels attention_kernels = {&scratch_floats, &attend_split, &merge_split,
                                                   &add_mass,       &finish,       &store_piece};

}  // namespace transom::TRANSOM_ISA
