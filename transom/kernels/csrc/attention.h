// Paged attention: what the driver hands to the kernels, and the table of kernels each instruction set exposes.
//
// One kernel call works on a tile (consecutive rows of one sequence, and of their query heads the group that shares one
// KV head) and on one split of that sequence. A tile's lines are numbered row * group + head. Plain data only: this
// header is compiled once per instruction set, and anything with code and external linkage would be shared by them.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace transom {

static constexpr int kBlockTokens = 64;
static constexpr int kSplitBlocks = 4;
static constexpr int kSplitTokens = kBlockTokens * kSplitBlocks;
static constexpr int kLineLanes = 16;

// Accumulators, and values unpacked to float, have whole vectors per token or line.
static constexpr int64_t padded(int64_t size) { return (size + kLineLanes - 1) / kLineLanes * kLineLanes; }

// How keys and values are stored. q8_0: groups of 32 channels of a token, each with a scale of f16 and integers of
// eight bits; the last group of a token may be shorter.
enum class KVType { f32, f16, q8_0 };

static constexpr int kGroupChannels = 32;

static constexpr int64_t groups_of(int64_t head_dim) { return (head_dim + kGroupChannels - 1) / kGroupChannels; }

// Bytes of one KV head's keys, or values, in a block.
static constexpr int64_t half_bytes(KVType type, int64_t head_dim) {
  if (type == KVType::q8_0) return kBlockTokens * (head_dim + 2 * groups_of(head_dim));
  return kBlockTokens * head_dim * (type == KVType::f16 ? 2 : 4);
}

struct AttentionRule {
  float scale;     // factor on the scores
  float soft_cap;  // scores become soft_cap * tanh(score / soft_cap); 0 = they stay
};

// What position p sees: the first part, positions below keep_first, and the recent part, first_recent(p) .. p. Where
// the two meet, everything is the recent part. Each part is attended to by itself, so that a row sees one interval at a
// time.
enum class Part { first, recent };

struct VisibleSet {
  int64_t keep_first;
  int64_t window;         // p - window + 1 .. p; at most kNoWindow, which hides nothing
  int64_t window_blocks;  // so many blocks, p's own included; at most kNoWindow
};

static constexpr int64_t kNoWindow = int64_t{1} << 32;  // wider than positions can be apart

// Where the recent part begins; never less for a later position.
static inline int64_t first_recent(const VisibleSet& visible, int64_t position) {
  const int64_t by_tokens = position + 1 - visible.window;
  const int64_t by_blocks = (position / kBlockTokens + 1 - visible.window_blocks) * kBlockTokens;
  const int64_t first = by_tokens > by_blocks ? by_tokens : by_blocks;
  return first > visible.keep_first ? first : 0;
}

struct AttentionTile {
  const float* query;  // [num_rows * group][head_dim]
  VisibleSet visible;
  int64_t first_position;
  int num_rows;
  int group;
  int head_dim;
  KVType type;
};

// Where the sums of a split's blocks go, for the group of one row.
struct BlockSums {
  int64_t position = -1;     // of that row
  float* maximum = nullptr;  // [group]: the sums are relative to exp(maximum)
  float* sums = nullptr;     // [group][kSplitBlocks]
};

// One KV head's share of a part of a split: per block, keys [head_dim][64] and then values [64][head_dim]. With q8_0
// each half is followed by its scales: keys' [groups][64], values' [64][groups].
struct SplitMemory {
  int64_t first_position;  // a multiple of kSplitTokens
  Part part;
  const void* blocks[kSplitBlocks];  // null where the tile sees no token, or the block is missing: nobody sees it
  const void* next;                  // what this thread will read after this split, or null: a hint
  BlockSums block_sums;
};

// Running or partial softmax of a tile's lines: sum and values are relative to exp(maximum).
struct AttentionSums {
  float* maximum;  // [lines]; -infinity where nothing was seen
  float* sum;      // [lines]
  float* values;   // [lines][padded(head_dim)], weighted by exp(score - maximum)
};

// Tokens of one sequence that share a block, and one KV head.
struct StorePiece {
  const float* key;  // first token's head_dim floats
  const float* value;
  int64_t key_stride;  // floats from token to token
  int64_t value_stride;
  void* block;  // the KV head's share
  int first_column;
  int num_tokens;
  int head_dim;
  KVType type;
};

struct AttentionKernels {
  // Floats of scratch one attend_split needs.
  int64_t (*scratch_floats)(int64_t lines, int head_dim);
  // Writes the sums of a part of a split for the rows that see any of it, at their lines; other lines are left alone.
  void (*attend_split)(const AttentionTile&, const AttentionRule&, const SplitMemory&, float* scratch,
                       AttentionSums partial);
  // running += partial for the rows that see any of it. Splits are merged in order of position, first parts first.
  void (*merge_split)(const AttentionTile&, Part, int64_t split_first_position, AttentionSums partial,
                      AttentionSums running);
  // Adds to mass[kSplitBlocks] what all heads give to the blocks of a part of a split, as `BlockSums` has it,
  // relative to exp(row.maximum) and divided by row.sum and the number of heads.
  void (*add_mass)(BlockSums part, const AttentionSums& row, int64_t num_heads, float* mass);
  // output[line][head_dim] = values / sum
  void (*finish)(AttentionSums running, int64_t lines, int head_dim, float* output);
  void (*store_piece)(const StorePiece&);
};

TRANSOM_DECLARE_PER_ISA(AttentionKernels, attention_kernels)

}  // namespace transom
