// Matrix products on packed panels. One lane is one output, so no sum ever crosses lanes:
//
//   sum of chunk c  = fma over its k in order, from zero
//   output          = 0 + sum 0 + sum 1 ..., from left to right
//
// Every path below computes exactly this; they differ in what they keep in registers and in cache.
#include "matmul.h"

#include "simd.h"

namespace transom::TRANSOM_ISA {
namespace {

// Accumulators must stay in registers: 16 of 8 lanes (AVX2), 32 of 16 lanes (AVX-512).
#if defined(__AVX512F__)
constexpr int kTileRows = 14;
constexpr int kBlockPanels = 2;
constexpr int panels_together(int rows) { return rows <= 2 ? 4 : 2; }
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int kBlockPanels = 1;
constexpr int panels_together(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
#else
constexpr int kTileRows = 6;
constexpr int kBlockPanels = 1;
constexpr int panels_together(int) { return 1; }
#endif

// Far enough ahead to hide the memory's latency at its full speed.
constexpr int64_t kPrefetchBytes = 8192;

// Sums stay in registers only while no function takes their address.
#define TRANSOM_INLINE __attribute__((always_inline)) inline

struct F32 {
  float value;
};
struct F16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};
inline f32x16 load_weights(const F32* p) { return load(&p->value); }
inline f32x16 load_weights(const F16* p) { return load_f16(&p->bits); }
inline f32x16 load_weights(const Bf16* p) { return load_bf16(&p->bits); }

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// What to fetch into the cache while a chunk is computed: at every step, for every panel.
struct Ahead {
  const char* data;
  int64_t panel_bytes;
  int64_t step_bytes;
};

template <int panels, int rows>
struct Sums {
  f32x16 at[panels][rows];
};

// A chunk of some panels: [panels][depth][16].
template <class Weight>
struct Chunk {
  const Weight* weights;
  int64_t panel_stride;
  int64_t depth;
};

template <class Weight>
Chunk<Weight> chunk_at(const Product& product, int64_t panel, int64_t k) {
  const auto* weights = reinterpret_cast<const Weight*>(product.weight->panel(panel)) + k * kPanelRows;
  return {weights, product.weight->in_features() * kPanelRows, product.chunk_depth(k)};
}

constexpr auto kForget = [](int, int64_t, f32x16) {};

// Rows of x, interleaved, times a chunk. `keep` sees the weights of panel p at step k, as f32.
template <int panels, int rows, class Weight, class Keep>
TRANSOM_INLINE Sums<panels, rows> multiply_chunk(const float* x, Chunk<Weight> chunk, Ahead ahead, Keep keep) {
  Sums<panels, rows> sums;
#pragma GCC unroll 16
  for (int p = 0; p < panels; ++p)
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) sums.at[p][r] = zero();
  for (int64_t k = 0; k < chunk.depth; ++k) {
    f32x16 w[panels];
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
      w[p] = load_weights(chunk.weights + p * chunk.panel_stride + k * kLanes);
      __builtin_prefetch(ahead.data + p * ahead.panel_bytes + k * ahead.step_bytes);
      keep(p, k, w[p]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const f32x16 factor = broadcast(x[k * rows + r]);
#pragma GCC unroll 16
      for (int p = 0; p < panels; ++p) sums.at[p][r] = fma(factor, w[p], sums.at[p][r]);
    }
  }
  return sums;
}

// Where a tile's outputs for some panels go.
struct Target {
  float* out;  // first row, first column
  int64_t row_stride;
  int64_t columns;  // that exist, from the first on
};

Target target_of(const Product& product, int64_t tile, int64_t panel) {
  const int64_t column = panel * kPanelRows;
  return {product.out + product.tile_begin(tile) * product.out_stride + column, product.out_stride,
          product.weight->out_features() - column};
}

alignas(64) constexpr float kZeros[kLanes] = {};

// Adds a chunk's sums to the outputs in memory; the first chunk starts from zero.
template <int panels, int rows>
TRANSOM_INLINE void add_to_outputs(const Target& target, const Sums<panels, rows>& sums, bool is_first) {
#pragma GCC unroll 16
  for (int p = 0; p < panels; ++p) {
    float* out = target.out + p * kLanes;
    const float* before = is_first ? kZeros : out;
    const int64_t before_stride = is_first ? 0 : target.row_stride;
    const int64_t columns = target.columns - p * kLanes;
    if (columns >= kLanes) {
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r)
        store(out + r * target.row_stride, load(before + r * before_stride) + sums.at[p][r]);
    } else {
      const int count = static_cast<int>(columns);
      f32x16 spilled[rows];
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) spilled[r] = sums.at[p][r];
#pragma GCC unroll 1
      for (int r = 0; r < rows; ++r) {
        store_first(out + r * target.row_stride, load_first(before + r * before_stride, count) + spilled[r], count);
      }
    }
  }
}

// ---- few rows: a single tile; the weights stream from memory, once, in order ----

template <int panels, int rows, class Weight>
void stream_panels(const Product& product, int64_t panel) {
  const int64_t in_features = product.weight->in_features();
  const Target target = target_of(product, 0, panel);
  for (int64_t k = 0; k < in_features; k += kChunk) {
    const auto chunk = chunk_at<Weight>(product, panel, k);
    const Ahead ahead = {reinterpret_cast<const char*>(chunk.weights) + kPrefetchBytes, product.weight->panel_bytes(),
                         kLanes * sizeof(Weight)};
    add_to_outputs(target, multiply_chunk<panels, rows>(product.x + k * rows, chunk, ahead, kForget), k == 0);
  }
}

template <int rows, class Weight>
void stream(const Product& product, int64_t panel, int64_t last_panel) {
  constexpr int kTogether = panels_together(rows);
  for (; panel + kTogether <= last_panel; panel += kTogether) stream_panels<kTogether, rows, Weight>(product, panel);
  for (; panel < last_panel; ++panel) stream_panels<1, rows, Weight>(product, panel);
}

// Turns the number of rows into a template argument.
template <class Weight, int rows = kTileRows>
void stream_rows(const Product& product, int64_t first_panel, int64_t last_panel) {
  if constexpr (rows > 1) {
    if (product.num_rows < rows) return stream_rows<Weight, rows - 1>(product, first_panel, last_panel);
  }
  stream<rows, Weight>(product, first_panel, last_panel);
}

// ---- more rows: a chunk of some panels stays in the first-level cache while all tiles pass ----

struct Tile {
  const float* x;  // at the chunk's k
  int64_t num_rows;
  Target target;
  bool is_first_chunk;
};

Tile tile_of(const Product& product, int64_t tile, int64_t panel, int64_t k) {
  const int64_t num_rows = product.tile_begin(tile + 1) - product.tile_begin(tile);
  return {product.x + product.x_offset(tile, k), num_rows, target_of(product, tile, panel), k == 0};
}

// Rows of the output often share cache sets, so a chunk later they are gone from the nearer caches.
template <int panels, int rows>
TRANSOM_INLINE void fetch_outputs(const Target& target) {
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) __builtin_prefetch(target.out + r * target.row_stride + p * kLanes, 1);
}

template <int panels, int rows, class Weight, class Keep>
void multiply_tile_rows(const Tile& tile, Chunk<Weight> chunk, Ahead ahead, Keep keep) {
  if constexpr (rows > 1) {
    if (tile.num_rows < rows) return multiply_tile_rows<panels, rows - 1>(tile, chunk, ahead, keep);
  }
  fetch_outputs<panels, rows>(tile.target);
  add_to_outputs(tile.target, multiply_chunk<panels, rows>(tile.x, chunk, ahead, keep), tile.is_first_chunk);
}

template <int panels, class Weight, class Keep>
void multiply_tile(const Tile& tile, Chunk<Weight> chunk, Ahead ahead, Keep keep) {
  multiply_tile_rows<panels, kTileRows>(tile, chunk, ahead, keep);
}

// A tile's part of the block that comes next, so that all tiles together fetch it evenly.
template <class Weight>
Ahead share_of(Chunk<Weight> next, int64_t tile, int64_t num_tiles) {
  constexpr int64_t kBytes = sizeof(Weight);
  const int64_t step_bytes = (kLanes * kBytes + num_tiles - 1) / num_tiles;
  const char* begin = reinterpret_cast<const char*>(next.weights) + tile * next.depth * step_bytes;
  return {begin, next.panel_stride * kBytes, step_bytes};
}

// The first tile keeps the weights it reads, widened and packed tightly, in the first-level cache for the others.
template <int panels, class Weight>
void multiply_block(const Product& product, int64_t panel, int64_t k, Chunk<Weight> chunk, Chunk<Weight> next) {
  alignas(64) F32 wide[panels * kChunk * kLanes];
  const auto keep = [&](int p, int64_t step, f32x16 w) { store(&wide[(p * kChunk + step) * kLanes].value, w); };
  const int64_t num_tiles = product.num_tiles;
  multiply_tile<panels>(tile_of(product, 0, panel, k), chunk, share_of(next, 0, num_tiles), keep);
  const Chunk<F32> kept = {wide, kChunk * kLanes, chunk.depth};
  for (int64_t tile = 1; tile < num_tiles; ++tile)
    multiply_tile<panels>(tile_of(product, tile, panel, k), kept, share_of(next, tile, num_tiles), kForget);
}

template <class Weight>
void multiply_many(const Product& product, int64_t first_panel, int64_t last_panel) {
  const int64_t in_features = product.weight->in_features();
  for (int64_t k = 0; k < in_features; k += kChunk) {
    for (int64_t panel = first_panel, after; panel < last_panel; panel = after) {
      const bool together = panel + kBlockPanels <= last_panel;
      after = panel + (together ? kBlockPanels : 1);
      const Chunk<Weight> chunk = chunk_at<Weight>(product, panel, k);
      const Chunk<Weight> next = after < last_panel         ? chunk_at<Weight>(product, after, k)
                                 : k + kChunk < in_features ? chunk_at<Weight>(product, first_panel, k + kChunk)
                                                            : chunk;
      if (together) {
        multiply_block<kBlockPanels>(product, panel, k, chunk, next);
      } else {
        multiply_block<1>(product, panel, k, chunk, next);
      }
    }
  }
}

template <class Weight>
void multiply_as(const Product& product, int64_t first_panel, int64_t last_panel) {
  if (product.num_tiles == 1) {
    stream_rows<Weight>(product, first_panel, last_panel);
  } else {
    multiply_many<Weight>(product, first_panel, last_panel);
  }
}

void multiply(const Product& product, int64_t first_panel, int64_t last_panel) {
  switch (product.weight->type()) {
    case WeightType::f32:
      return multiply_as<F32>(product, first_panel, last_panel);
    case WeightType::f16:
      return multiply_as<F16>(product, first_panel, last_panel);
    default:
      return multiply_as<Bf16>(product, first_panel, last_panel);
  }
}

// ---- embedding ----

template <class Weight>
void copy_row_as(const PackedMatrix& weight, int64_t row, float* out) {
  const auto* lane = reinterpret_cast<const Weight*>(weight.panel(row / kPanelRows)) + row % kPanelRows;
  for (int64_t k = 0; k < weight.in_features(); k += kLanes) {
    const int count = static_cast<int>(smaller(kLanes, weight.in_features() - k));
    Weight some[kLanes] = {};
    for (int i = 0; i < count; ++i) some[i] = lane[(k + i) * kPanelRows];
    store_first(out + k, load_weights(some), count);
  }
}

void copy_row(const PackedMatrix& weight, int64_t row, float* out) {
  switch (weight.type()) {
    case WeightType::f32:
      return copy_row_as<F32>(weight, row, out);
    case WeightType::f16:
      return copy_row_as<F16>(weight, row, out);
    default:
      return copy_row_as<Bf16>(weight, row, out);
  }
}

}  // namespace

extern const MatmulKernels matmul_kernels = {kTileRows, &multiply, &copy_row};

}  // namespace transom::TRANSOM_ISA
