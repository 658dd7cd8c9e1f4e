#include "matrix_product.h"

#include <algorithm>

#include "dequantize.h"
#include "matmul.h"
#include "quantized_matmul.h"

namespace transom {
namespace {

// So many rows at a time: bounds the copies of x, and keeps a chunk of them in the second-level cache. A multiple of
// every kernel's tile.
constexpr int64_t kRowBlock = 252;

// A block of rows of x.
struct Rows {
  const float* x;
  int64_t num_rows;
  int64_t depth;

  int64_t num_tiles(int64_t tile_rows) const { return (num_rows + tile_rows - 1) / tile_rows; }
  int64_t tile_begin(int64_t tile, int64_t num_tiles) const { return tile * num_rows / num_tiles; }
};

// Memory that the calling thread keeps for its next call.
template <class Element>
class Buffer {
 public:
  Element* at_least(int64_t count) {
    if (count > capacity_) {
      memory_.reset();
      capacity_ = 0;
      memory_ = allocate_huge(static_cast<size_t>(count) * sizeof(Element));
      capacity_ = count;
    }
    return reinterpret_cast<Element*>(memory_.get());
  }

 private:
  HugeMemory memory_{nullptr, Unmap{0}};
  int64_t capacity_ = 0;
};

// ---- x in the orders in which kernels read it ----

// rows[num_rows][stride] -> tile[depth][num_rows]
void interleave(const float* rows, int64_t num_rows, int64_t stride, int64_t depth, float* tile) {
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t row = 0; row < num_rows; ++row) tile[k * num_rows + row] = rows[row * stride + k];
}

void interleave_tile(const Rows& rows, int64_t tile, int64_t num_tiles, float* out) {
  const int64_t begin = rows.tile_begin(tile, num_tiles);
  const int64_t num_rows = rows.tile_begin(tile + 1, num_tiles) - begin;
  for (int64_t k = 0; k < rows.depth; k += kChunk) {
    const int64_t depth = std::min(kChunk, rows.depth - k);
    interleave(rows.x + begin * rows.depth + k, num_rows, rows.depth, depth, out + k * rows.num_rows + begin * depth);
  }
}

const float* interleaved(const Rows& rows, int64_t num_tiles) {
  if (rows.num_rows == 1) return rows.x;
  thread_local Buffer<float> buffer;
  const int64_t size = rows.num_rows * rows.depth;
  float* out = buffer.at_least(size);
  share_out(num_tiles, size, [&](int64_t tile) { interleave_tile(rows, tile, num_tiles, out); });
  return out;
}

const int32_t* quantized(const Rows& rows, int64_t num_tiles, Grouping grouping) {
  thread_local Buffer<int32_t> buffers[2];
  const int64_t num_chunks = (rows.depth + kQuantizedChunk - 1) / kQuantizedChunk;
  const int64_t chunk_stride = rows.num_rows * kRecordWords;
  int32_t* records = buffers[static_cast<int>(grouping)].at_least(num_chunks * chunk_stride);
  const ActivationKernels& kernels = TRANSOM_PICK_INTEGER(activation_kernels);
  share_out(num_tiles, rows.num_rows * rows.depth, [&](int64_t tile) {
    const int64_t begin = rows.tile_begin(tile, num_tiles);
    kernels.quantize_tile(rows.x + begin * rows.depth, rows.tile_begin(tile + 1, num_tiles) - begin, rows.depth,
                          grouping, records + begin * kRecordWords, chunk_stride);
  });
  return records;
}

// What the matrices of a call need of x, made when first asked for.
class Activations {
 public:
  explicit Activations(const Rows& rows) : rows_(rows) {}

  const float* floats(int64_t num_tiles) {
    if (floats_ == nullptr) floats_ = interleaved(rows_, num_tiles);
    return floats_;
  }
  const int32_t* records(int64_t num_tiles, Grouping grouping) {
    const int32_t*& records = records_[static_cast<int>(grouping)];
    if (records == nullptr) records = quantized(rows_, num_tiles, grouping);
    return records;
  }

 private:
  Rows rows_;
  const float* floats_ = nullptr;
  const int32_t* records_[2] = {};
};

// ---- one matrix's part of a call ----

struct Part {
  const PackedMatrix* weight;
  const float* floats;     // for weights that are floats
  const int32_t* records;  // for quantised ones
  float* out;
  int64_t out_stride;
  int64_t num_rows;
  int64_t num_tiles;
  int64_t panels_per_task;

  int64_t num_tasks() const { return (weight->num_panels() + panels_per_task - 1) / panels_per_task; }

  void multiply(int64_t task) const {
    const int64_t first = task * panels_per_task;
    const int64_t last = std::min(first + panels_per_task, weight->num_panels());
    if (is_quantized(weight->type())) {
      TRANSOM_PICK_INTEGER(quantized_matmul_kernels)
          .multiply({weight, records, out, out_stride, num_rows, num_tiles}, first, last);
    } else {
      TRANSOM_PICK(matmul_kernels).multiply({weight, floats, out, out_stride, num_rows, num_tiles}, first, last);
    }
  }
};

// A multiple of 4, so that kernels can take panels together; small enough that all threads finish together.
int64_t panels_per_task(int64_t all_panels, int64_t num_tiles) {
  const int64_t even_share = all_panels / (4 * num_threads());
  return std::clamp<int64_t>(even_share / 4 * 4, 4, num_tiles == 1 ? 64 : 8);
}

Part part_of(const PackedMatrix& weight, const Rows& rows, Activations& activations, int64_t all_panels, float* out,
             int64_t out_stride) {
  const bool quantized = is_quantized(weight.type());
  const int64_t tile_rows =
      quantized ? TRANSOM_PICK_INTEGER(quantized_matmul_kernels).tile_rows : TRANSOM_PICK(matmul_kernels).tile_rows;
  const int64_t num_tiles = rows.num_tiles(tile_rows);
  return {&weight,
          quantized ? nullptr : activations.floats(num_tiles),
          quantized ? activations.records(num_tiles, grouping_of(weight.type())) : nullptr,
          out,
          out_stride,
          rows.num_rows,
          num_tiles,
          panels_per_task(all_panels, num_tiles)};
}

void multiply_parts(const std::vector<Part>& parts, int64_t work) {
  int64_t num_tasks = 0;
  for (const Part& part : parts) num_tasks += part.num_tasks();
  share_out(num_tasks, work, [&](int64_t task) {
    auto part = parts.begin();
    for (; task >= part->num_tasks(); ++part) task -= part->num_tasks();
    part->multiply(task);
  });
}

void add_bias(const float* bias, int64_t num_rows, int64_t num_columns, float* out) {
  for (int64_t row = 0; row < num_rows; ++row, out += num_columns)
    for (int64_t i = 0; i < num_columns; ++i) out[i] += bias[i];
}

void multiply_rows(const std::vector<const PackedMatrix*>& weights, const Rows& rows, int64_t out_stride, float* out) {
  Activations activations(rows);
  std::vector<Part> parts;
  parts.reserve(weights.size());
  int64_t all_panels = 0, column = 0;
  for (const PackedMatrix* weight : weights) all_panels += weight->num_panels();
  for (const PackedMatrix* weight : weights) {
    parts.push_back(part_of(*weight, rows, activations, all_panels, out + column, out_stride));
    column += weight->out_features();
  }
  multiply_parts(parts, rows.num_rows * all_panels * rows.depth);
}

}  // namespace

void multiply_matrices(const std::vector<const PackedMatrix*>& weights, const float* x, int64_t num_rows,
                       const float* bias, float* out) {
  const int64_t depth = weights.front()->in_features();
  int64_t num_columns = 0;
  for (const PackedMatrix* weight : weights) num_columns += weight->out_features();
  for (int64_t row = 0; row < num_rows; row += kRowBlock) {
    const Rows rows = {x + row * depth, std::min(kRowBlock, num_rows - row), depth};
    multiply_rows(weights, rows, num_columns, out + row * num_columns);
  }
  if (bias != nullptr) add_bias(bias, num_rows, num_columns, out);
}

void copy_matrix_row(const PackedMatrix& weight, int64_t row, float* out) {
  if (!is_quantized(weight.type())) return TRANSOM_PICK(matmul_kernels).copy_row(weight, row, out);
  thread_local std::vector<std::byte> blocks;
  blocks.resize(static_cast<size_t>(row_bytes(weight.type(), weight.in_features())));
  unpack_quantized_row(weight.type(), weight.in_features(), weight.panel(row / kPanelRows), row % kPanelRows,
                       blocks.data());
  dequantize_row(weight.type(), weight.in_features(), blocks.data(), out);
}

}  // namespace transom
