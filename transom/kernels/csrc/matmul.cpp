// Matrix products on packed panels. One lane is one output, so no sum ever crosses lanes:
//
//   sum of chunk c  = fma over its k in order, from zero
//   output          = (sum 0 + sum 1) + sum 2 ... + bias
//
// Every path below computes exactly this; they differ in what they keep in registers and in cache.
#include "matmul.h"

#include "simd.h"

namespace transom::TRANSOM_ISA {
namespace {

// Accumulators must stay in registers: 16 of 8 lanes (AVX2), 32 of 16 lanes (AVX-512).
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
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

inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

template <int panels, int rows>
struct Sums {
  f32x16 at[panels][rows];
};

// One chunk: rows of x, interleaved, times panels that lie panel_stride apart. `ahead` is what will be read later,
// as long and as strided.
template <int panels, int rows, class Weight>
inline Sums<panels, rows> multiply_chunk(const float* x, const Weight* weights, int64_t panel_stride, int64_t depth,
                                         const char* ahead) {
  Sums<panels, rows> sums;
#pragma GCC unroll 16
  for (int p = 0; p < panels; ++p)
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) sums.at[p][r] = zero();
  for (int64_t k = 0; k < depth; ++k) {
    f32x16 w[panels];
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
      w[p] = load_weights(weights + p * panel_stride + k * kLanes);
      prefetch(ahead + (p * panel_stride + k * kLanes) * static_cast<int64_t>(sizeof(Weight)));
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
  const float* bias;
  int64_t row_stride;
  int64_t columns;  // that exist, from the first on
};

Target target_of(const Product& product, int64_t tile, int64_t panel) {
  const int64_t stride = product.weight->out_features();
  const int64_t column = panel * kPanelRows;
  const float* bias = product.bias == nullptr ? nullptr : product.bias + column;
  return {product.out + product.tile_begin(tile) * stride + column, bias, stride, stride - column};
}

inline f32x16 load_some(const float* p, int64_t count) {
  return count >= kLanes ? load(p) : load_first(p, static_cast<int>(count));
}

inline void store_some(float* p, f32x16 value, int64_t count) {
  if (count >= kLanes) {
    store(p, value);
  } else {
    store_first(p, value, static_cast<int>(count));
  }
}

// Adds a chunk's sums to the outputs in memory; the first chunk starts them, the last adds the bias.
template <int panels, int rows>
inline void add_to_outputs(const Target& target, const Sums<panels, rows>& sums, bool is_first, bool is_last) {
#pragma GCC unroll 16
  for (int p = 0; p < panels; ++p) {
    const int64_t columns = target.columns - p * kLanes;
    const bool has_bias = is_last && target.bias != nullptr;
    const f32x16 bias = has_bias ? load_some(target.bias + p * kLanes, columns) : zero();
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      float* out = target.out + r * target.row_stride + p * kLanes;
      f32x16 total = is_first ? sums.at[p][r] : load_some(out, columns) + sums.at[p][r];
      if (has_bias) total = total + bias;
      store_some(out, total, columns);
    }
  }
}

// ---- few rows: a single tile; the weights stream from memory, once, in order
// -----------------------------------------

template <int panels, int rows, class Weight>
void stream_panels(const Product& product, int64_t panel) {
  const int64_t in_features = product.weight->in_features();
  const int64_t panel_stride = in_features * kPanelRows;
  const auto* weights = reinterpret_cast<const Weight*>(product.weight->panel(panel));
  const Target target = target_of(product, 0, panel);
  for (int64_t k = 0; k < in_features; k += kChunk) {
    const int64_t depth = smaller(kChunk, in_features - k);
    const Weight* chunk = weights + k * kPanelRows;
    const char* ahead = reinterpret_cast<const char*>(chunk) + kPrefetchBytes;
    const auto sums = multiply_chunk<panels, rows>(product.x + k * rows, chunk, panel_stride, depth, ahead);
    add_to_outputs(target, sums, k == 0, k + depth == in_features);
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

// ---- many rows: a chunk of some panels stays in the first-level cache, as f32, while all tiles pass
// -------------------

template <int panels>
struct Block {
  const F32* weights;  // [panels][...], panel_stride apart
  int64_t panel_stride;
  int64_t depth;
  bool is_first;
  bool is_last;
};

template <int panels, int rows = kTileRows>
void multiply_tile(const Block<panels>& block, const float* x, int64_t num_rows, const Target& target) {
  if constexpr (rows > 1) {
    if (num_rows < rows) return multiply_tile<panels, rows - 1>(block, x, num_rows, target);
  }
  const char* ahead = reinterpret_cast<const char*>(block.weights);
  const auto sums = multiply_chunk<panels, rows>(x, block.weights, block.panel_stride, block.depth, ahead);
  add_to_outputs(target, sums, block.is_first, block.is_last);
}

template <int panels>
void multiply_block(const Product& product, int64_t panel, int64_t k, const Block<panels>& block) {
  const int64_t in_features = product.weight->in_features();
  for (int64_t tile = 0; tile < product.num_tiles; ++tile) {
    const int64_t row = product.tile_begin(tile);
    const int64_t num_rows = product.tile_begin(tile + 1) - row;
    const float* x = product.x + row * in_features + k * num_rows;
    multiply_tile<panels>(block, x, num_rows, target_of(product, tile, panel));
  }
}

template <int panels, class Weight>
void multiply_panels(const Product& product, int64_t panel, int64_t k) {
  const int64_t in_features = product.weight->in_features();
  const int64_t panel_stride = in_features * kPanelRows;
  const int64_t depth = smaller(kChunk, in_features - k);
  const auto* source = reinterpret_cast<const Weight*>(product.weight->panel(panel)) + k * kPanelRows;
  alignas(64) F32 scratch[panels * kChunk * kPanelRows];
  for (int p = 0; p < panels; ++p)
    for (int64_t i = 0; i < depth; ++i)
      store(&scratch[(p * kChunk + i) * kLanes].value, load_weights(source + p * panel_stride + i * kLanes));
  multiply_block<panels>(product, panel, k, {scratch, kChunk * kPanelRows, depth, k == 0, k + depth == in_features});
}

template <class Weight>
void multiply_many(const Product& product, int64_t first_panel, int64_t last_panel) {
  for (int64_t k = 0; k < product.weight->in_features(); k += kChunk) {
    int64_t panel = first_panel;
    for (; panel + kBlockPanels <= last_panel; panel += kBlockPanels)
      multiply_panels<kBlockPanels, Weight>(product, panel, k);
    for (; panel < last_panel; ++panel) multiply_panels<1, Weight>(product, panel, k);
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
    case WeightType::bf16:
      return multiply_as<Bf16>(product, first_panel, last_panel);
  }
}

// ---- embedding
// ---------------------------------------------------------------------------------------------------------

template <class Weight>
void copy_row_as(const PackedMatrix& weight, int64_t row, float* out) {
  const auto* lane = reinterpret_cast<const Weight*>(weight.panel(row / kPanelRows)) + row % kPanelRows;
  for (int64_t k = 0; k < weight.in_features(); k += kLanes) {
    const int count = static_cast<int>(smaller(kLanes, weight.in_features() - k));
    Weight some[kLanes] = {};
    for (int i = 0; i < count; ++i) some[i] = lane[(k + i) * kPanelRows];
    store_some(out + k, load_weights(some), count);
  }
}

void copy_row(const PackedMatrix& weight, int64_t row, float* out) {
  switch (weight.type()) {
    case WeightType::f32:
      return copy_row_as<F32>(weight, row, out);
    case WeightType::f16:
      return copy_row_as<F16>(weight, row, out);
    case WeightType::bf16:
      return copy_row_as<Bf16>(weight, row, out);
  }
}

}  // namespace

extern const MatmulKernels matmul_kernels = {kTileRows, &multiply, &copy_row};

}  // namespace transom::TRANSOM_ISA
