// Matrix products on quantised panels. A lane is a weight row, so one output; within a block of weights everything is
// exact in integers:
//
//   sum     = sum over sub-blocks of scale * (sum of code * activation code)            int32
//   minima  = sum over sub-blocks of minimum * -(sum of activation codes)               int32
//   output  = fma(scale of the block * activation scale, sum, output)                   from zero, block by block
//   output  = fma(minimum of the block * activation scale, minima, output)              where the type has minima
//
// Blocks of 32 have no sub-blocks, and instead of the last line fma(minimum, activation scale * (sum of codes),
// output). The order of the integer sums is free, that of the float operations is this one on every path.
#include "quantized_matmul.h"

#include <algorithm>

#include "quantized_outputs.h"

namespace transom::TRANSOM_ISA {
namespace {

// Sums must stay in registers: 16 of 8 lanes (AVX2), 32 of 16 lanes (AVX-512).
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
constexpr int kStreamedRows = 6;
constexpr int kBlockPanels = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 3;
constexpr int kStreamedRows = 2;
constexpr int kBlockPanels = 1;
#else
constexpr int kTileRows = 2;
constexpr int kStreamedRows = 1;
constexpr int kBlockPanels = 1;
#endif

// Far enough ahead to hide the memory's latency at its full speed.
constexpr int64_t kPrefetchBytes = 8192;
constexpr int64_t kLine = 64;

// ---- few rows: weights stream from memory through registers, once, in order ----

// The sums of a strip for one part of a panel, added to `totals`.
template <class C, int rows>
TRANSOM_INLINE void add_strip(const typename C::Part& part, Records<rows> x, const Factors& factors, int strip,
                              i32s (&totals)[rows][kParts]) {
  typename C::Dot sums[C::kBlocks][rows];
  TRANSOM_UNROLLED
  for (int block = 0; block < C::kBlocks; ++block) TRANSOM_UNROLLED
  for (int row = 0; row < rows; ++row) sums[block][row] = start_sum<C>(x, C::sub_block(strip, block), row);
  TRANSOM_UNROLLED
  for (int step = 0; step < C::kSteps; ++step) {
    i32s codes[C::kVectors];
    C::read(part, strip, step, codes);
    TRANSOM_UNROLLED
    for (int vector = 0; vector < C::kVectors; ++vector) TRANSOM_UNROLLED
    for (int row = 0; row < rows; ++row)
      sums[vector % C::kBlocks][row].add(codes[vector], x.ints(kCodeWords + C::group(strip, step, vector), row));
  }
  TRANSOM_UNROLLED
  for (int block = 0; block < C::kBlocks; ++block) {
    TRANSOM_UNROLLED
    for (int row = 0; row < rows; ++row) {
      i32s& total = totals[row][part.part];
      if constexpr (C::kHasScales) {
        total = sums[block][row].add_times(total, factors.scales[part.part][C::sub_block(strip, block)]);
      } else {
        total = sums[block][row].add_to(total);
      }
    }
  }
}

template <int rows>
TRANSOM_INLINE void clear(i32s (&totals)[rows][kParts]) {
  TRANSOM_UNROLLED
  for (int row = 0; row < rows; ++row) TRANSOM_UNROLLED
  for (int part = 0; part < kParts; ++part) totals[row][part] = no_ints();
}

template <class C, int rows>
TRANSOM_INLINE void stream_chunk(const std::byte* chunk, int64_t num_blocks, Records<rows> x, f32x16 (&outputs)[rows]) {
  constexpr int64_t kBytes = kChunkBytes<C::Part::kType>;
  constexpr int64_t kStripBytes = (kBytes / C::kMaxStrips + kLine - 1) / kLine * kLine;
  Factors factors;
  read_factors<C>(chunk, num_blocks, factors);
  i32s totals[rows][kParts];
  clear(totals);
  const int num_strips = C::kHasScales ? C::kMaxStrips : static_cast<int>(num_blocks);
  TRANSOM_ROLLED
  for (int strip = 0; strip < num_strips; ++strip) {
    for (int64_t line = 0; line < kStripBytes; line += kLine)
      __builtin_prefetch(chunk + kPrefetchBytes + strip * kStripBytes + line);
    TRANSOM_UNROLLED
    for (int part = 0; part < kParts; ++part) add_strip<C>({chunk, num_blocks, part}, x, factors, strip, totals);
    if constexpr (!C::kHasScales) {
      TRANSOM_UNROLLED
      for (int row = 0; row < rows; ++row)
        outputs[row] = add_small_block<C>(x, factors, totals[row], strip, row, outputs[row]);
      clear(totals);
    }
  }
  if constexpr (C::kHasScales) {
    TRANSOM_UNROLLED
    for (int row = 0; row < rows; ++row) outputs[row] = add_block<C>(x, factors, totals[row], row, outputs[row]);
  }
}

int64_t blocks_of_chunk(const QuantizedProduct& product, int64_t chunk) {
  const int64_t block_size = facts_of(product.weight->type()).block_size;
  return std::min(kQuantizedChunk, product.weight->in_features() - chunk * kQuantizedChunk) / block_size;
}

// Turns the number of rows into a template argument.
template <class C, int rows = kStreamedRows>
void stream(const QuantizedProduct& product, int64_t first_panel, int64_t last_panel) {
  if constexpr (rows > 1) {
    if (product.num_rows < rows) return stream<C, rows - 1>(product, first_panel, last_panel);
  }
  const int64_t num_chunks = product.num_chunks();
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    f32x16 outputs[rows];
    TRANSOM_UNROLLED
    for (int row = 0; row < rows; ++row) outputs[row] = zero();
    const std::byte* weights = product.weight->panel(panel);
    for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
      const Records<rows> x = {product.tile_records(0, chunk)};
      stream_chunk<C>(weights + chunk * kChunkBytes<C::Part::kType>, blocks_of_chunk(product, chunk), x, outputs);
    }
    const Target target = target_of(product, 0, panel);
    TRANSOM_UNROLLED
    for (int row = 0; row < rows; ++row) store_output(target, 0, row, outputs[row]);
  }
}

// ---- more rows: a chunk of some panels is unpacked into the first-level cache, where all tiles use it ----

// What to fetch into the cache while a chunk is unpacked and multiplied: a later chunk of as many panels. Memory is
// read while it is asked for only, so lines are spread over all the work, by how long its steps take.
struct Ahead {
  const std::byte* data;
  int64_t panel_bytes;
  int64_t panels;
  int64_t num_lines;
  int64_t next_line = 0;
  int64_t lines_per_strip = 0;
  int64_t lines_per_sub_block = 0;

  void fetch(int64_t count) {
    const int64_t end = std::min(next_line + count, num_lines);
    for (; next_line < end; ++next_line)
      __builtin_prefetch(data + next_line % panels * panel_bytes + next_line / panels * kLine);
  }
};

template <class C, int panels>
Ahead spread(const QuantizedProduct& product, const std::byte* data) {
  constexpr int64_t kLines = panels * ((kChunkBytes<C::Part::kType> + kLine - 1) / kLine);
  constexpr int64_t kUnpackingRows = 2;  // unpacking takes as long as to multiply so many rows
  const int64_t of_strips = kLines * kUnpackingRows / (kUnpackingRows + product.num_rows);
  const int64_t num_strips = panels * C::kMaxStrips, num_sub_blocks = product.num_tiles * (64 / C::kGroups);
  return {data,
          product.weight->panel_bytes(),
          panels,
          kLines,
          0,
          of_strips / num_strips + 1,
          (kLines - of_strips) / num_sub_blocks + 1};
}

struct Unpacked {
  i32s codes[kParts][64];
  Factors factors;
};

template <class C>
void unpack(const std::byte* chunk, int64_t num_blocks, Ahead& ahead, Unpacked& unpacked) {
  read_factors<C>(chunk, num_blocks, unpacked.factors);
  const int num_strips = C::kHasScales ? C::kMaxStrips : static_cast<int>(num_blocks);
  TRANSOM_ROLLED
  for (int strip = 0; strip < num_strips; ++strip) {
    ahead.fetch(ahead.lines_per_strip);
    TRANSOM_UNROLLED
    for (int part = 0; part < kParts; ++part) {
      TRANSOM_UNROLLED
      for (int step = 0; step < C::kSteps; ++step) {
        i32s codes[C::kVectors];
        C::read({chunk, num_blocks, part}, strip, step, codes);
        TRANSOM_UNROLLED
        for (int vector = 0; vector < C::kVectors; ++vector)
          unpacked.codes[part][C::group(strip, step, vector)] = codes[vector];
      }
    }
  }
}

// Sums of a sub-block, for some panels and the rows of a tile.
template <class C, int panels, int rows>
struct SubBlockSums {
  typename C::Dot at[panels][kParts][rows];
};

template <class C, int panels, int rows>
TRANSOM_INLINE SubBlockSums<C, panels, rows> multiply_sub_block(const Unpacked* weights, Records<rows> x,
                                                                int sub_block) {
  SubBlockSums<C, panels, rows> sums;
  TRANSOM_UNROLLED
  for (int row = 0; row < rows; ++row) {
    const auto start = start_sum<C>(x, sub_block, row);
    TRANSOM_UNROLLED
    for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
    for (int part = 0; part < kParts; ++part) sums.at[panel][part][row] = start;
  }
  TRANSOM_UNROLLED
  for (int i = 0; i < C::kGroups; ++i) {
    const int group = sub_block * C::kGroups + i;
    i32s codes[panels][kParts];
    TRANSOM_UNROLLED
    for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
    for (int part = 0; part < kParts; ++part) codes[panel][part] = weights[panel].codes[part][group];
    TRANSOM_UNROLLED
    for (int row = 0; row < rows; ++row) {
      const i32s factor = x.ints(kCodeWords + group, row);
      TRANSOM_UNROLLED
      for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
      for (int part = 0; part < kParts; ++part) sums.at[panel][part][row].add(codes[panel][part], factor);
    }
  }
  return sums;
}

template <class C, int panels, int rows>
void multiply_block_of_256(const Unpacked* weights, Records<rows> x, const Target& target, bool is_first,
                           Ahead& ahead) {
  i32s totals[panels][rows][kParts];
  TRANSOM_UNROLLED
  for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
  for (int row = 0; row < rows; ++row) TRANSOM_UNROLLED
  for (int part = 0; part < kParts; ++part) totals[panel][row][part] = no_ints();
  TRANSOM_ROLLED
  for (int sub_block = 0; sub_block < 64 / C::kGroups; ++sub_block) {
    ahead.fetch(ahead.lines_per_sub_block);
    const auto sums = multiply_sub_block<C, panels>(weights, x, sub_block);
    TRANSOM_UNROLLED
    for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
    for (int part = 0; part < kParts; ++part) {
      const i32s scale = weights[panel].factors.scales[part][sub_block];
      TRANSOM_UNROLLED
      for (int row = 0; row < rows; ++row)
        totals[panel][row][part] = sums.at[panel][part][row].add_times(totals[panel][row][part], scale);
    }
  }
  TRANSOM_UNROLLED
  for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
  for (int row = 0; row < rows; ++row) {
    const f32x16 before = load_output(target, panel, row, is_first);
    store_output(target, panel, row, add_block<C>(x, weights[panel].factors, totals[panel][row], row, before));
  }
}

template <class C, int panels, int rows>
void multiply_blocks_of_32(const Unpacked* weights, Records<rows> x, int64_t num_blocks, const Target& target,
                           bool is_first, Ahead& ahead) {
  constexpr int kSubBlocks = 8 / C::kGroups;
  f32x16 outputs[panels][rows];
  TRANSOM_UNROLLED
  for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
  for (int row = 0; row < rows; ++row) outputs[panel][row] = load_output(target, panel, row, is_first);
  TRANSOM_ROLLED
  for (int block = 0; block < num_blocks; ++block) {
    ahead.fetch(ahead.lines_per_sub_block * kSubBlocks);
    i32s totals[panels][rows][kParts];
    TRANSOM_UNROLLED
    for (int i = 0; i < kSubBlocks; ++i) {
      const auto sums = multiply_sub_block<C, panels>(weights, x, block * kSubBlocks + i);
      TRANSOM_UNROLLED
      for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
      for (int row = 0; row < rows; ++row) TRANSOM_UNROLLED
      for (int part = 0; part < kParts; ++part)
        totals[panel][row][part] = sums.at[panel][part][row].add_to(i == 0 ? no_ints() : totals[panel][row][part]);
    }
    TRANSOM_UNROLLED
    for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
    for (int row = 0; row < rows; ++row)
      outputs[panel][row] =
          add_small_block<C>(x, weights[panel].factors, totals[panel][row], block, row, outputs[panel][row]);
  }
  TRANSOM_UNROLLED
  for (int panel = 0; panel < panels; ++panel) TRANSOM_UNROLLED
  for (int row = 0; row < rows; ++row) store_output(target, panel, row, outputs[panel][row]);
}

// Some panels' chunk times one tile. Turns the tile's number of rows into a template argument.
template <class C, int panels, int rows = kTileRows>
void multiply_tile(const QuantizedProduct& product, int64_t tile, int64_t panel, int64_t chunk, const Unpacked* weights,
                   Ahead& ahead) {
  if constexpr (rows > 1) {
    if (product.tile_size(tile) < rows)
      return multiply_tile<C, panels, rows - 1>(product, tile, panel, chunk, weights, ahead);
  }
  const Records<rows> x = {product.tile_records(tile, chunk)};
  const Target target = target_of(product, tile, panel);
  if constexpr (C::kHasScales) {
    multiply_block_of_256<C, panels>(weights, x, target, chunk == 0, ahead);
  } else {
    multiply_blocks_of_32<C, panels>(weights, x, blocks_of_chunk(product, chunk), target, chunk == 0, ahead);
  }
}

template <class C, int panels>
void multiply_block(const QuantizedProduct& product, int64_t panel, int64_t chunk, const std::byte* next) {
  Unpacked weights[panels];
  Ahead ahead = spread<C, panels>(product, next);
  for (int i = 0; i < panels; ++i) {
    unpack<C>(product.weight->panel(panel + i) + chunk * kChunkBytes<C::Part::kType>, blocks_of_chunk(product, chunk),
              ahead, weights[i]);
  }
  for (int64_t tile = 0; tile < product.num_tiles; ++tile)
    multiply_tile<C, panels>(product, tile, panel, chunk, weights, ahead);
}

// Where memory is the limit: so few tiles that weights are read as fast as it delivers them. Their x stays in the
// second-level cache whatever K is, so each panel is read from end to end.
constexpr int64_t kFewTiles = 8;

// The chunk to fetch while another one is computed, when panels are read from end to end, `step` at a time.
template <class C>
const std::byte* chunk_ahead(const QuantizedProduct& product, int64_t panel, int64_t chunk, int64_t step) {
  constexpr int64_t kChunksAhead = 1 + kPrefetchBytes / 2 / kChunkBytes<C::Part::kType>;
  const int64_t num_chunks = product.num_chunks();
  const int64_t position = chunk + kChunksAhead;
  const int64_t later = std::min(panel + position / num_chunks * step, product.weight->num_panels() - 1);
  return product.weight->panel(later) + position % num_chunks * kChunkBytes<C::Part::kType>;
}

template <class C>
void multiply_few(const QuantizedProduct& product, int64_t first_panel, int64_t last_panel) {
  const int64_t num_chunks = product.num_chunks();
  int64_t panel = first_panel;
  for (; panel + kBlockPanels <= last_panel; panel += kBlockPanels)
    for (int64_t chunk = 0; chunk < num_chunks; ++chunk)
      multiply_block<C, kBlockPanels>(product, panel, chunk, chunk_ahead<C>(product, panel, chunk, kBlockPanels));
  for (; panel < last_panel; ++panel)
    for (int64_t chunk = 0; chunk < num_chunks; ++chunk)
      multiply_block<C, 1>(product, panel, chunk, chunk_ahead<C>(product, panel, chunk, 1));
}

template <class C>
void multiply_many(const QuantizedProduct& product, int64_t first_panel, int64_t last_panel) {
  constexpr int64_t kOffset = kChunkBytes<C::Part::kType>;
  const int64_t num_chunks = product.num_chunks();
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    for (int64_t panel = first_panel, after; panel < last_panel; panel = after) {
      const bool together = panel + kBlockPanels <= last_panel;
      after = panel + (together ? kBlockPanels : 1);
      const std::byte* next = after < last_panel ? product.weight->panel(after) + chunk * kOffset
                                                 : product.weight->panel(first_panel) + (chunk + 1) * kOffset;
      if (together) {
        multiply_block<C, kBlockPanels>(product, panel, chunk, next);
      } else {
        multiply_block<C, 1>(product, panel, chunk, next);
      }
    }
  }
}

void multiply(const QuantizedProduct& product, int64_t first_panel, int64_t last_panel) {
  visit_quantized(product.weight->type(), [&]<WeightType type>() {
    if (product.num_rows <= kStreamedRows) {
      stream<Codes<type>>(product, first_panel, last_panel);
    } else if (product.num_tiles <= kFewTiles) {
      multiply_few<Codes<type>>(product, first_panel, last_panel);
    } else {
      multiply_many<Codes<type>>(product, first_panel, last_panel);
    }
  });
}

}  // namespace

extern const QuantizedMatmulKernels quantized_matmul_kernels = {kTileRows, &multiply};

}  // namespace transom::TRANSOM_ISA
