#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "arrays.h"
#include "matmul.h"

namespace nb = nanobind;

namespace transom {
namespace {

constexpr const char* kTypeNames[] = {"f32", "f16", "bf16"};
constexpr Dtype kTypeDtypes[] = {Dtype::f32, Dtype::f16, Dtype::bf16};

WeightType type_by_name(const std::string& name) {
  for (int i = 0; i < 3; ++i)
    if (name == kTypeNames[i]) return static_cast<WeightType>(i);
  throw std::invalid_argument("unknown weight type '" + name + "'; known: f32, f16, bf16");
}

void fill(PackedMatrix& matrix, int64_t row, nb::handle weight_object) {
  const Dtype dtype = kTypeDtypes[static_cast<int>(matrix.type())];
  const ArrayView weight(weight_object, "weight", dtype, 2, Access::read, Layout::contiguous_unaligned);
  weight.expect_size(1, matrix.in_features());
  if (row < 0 || row > matrix.out_features() - weight.size(0))
    throw std::invalid_argument("weight does not fit: too many rows");
  nb::gil_scoped_release release;
  matrix.fill(row, weight.data<std::byte>(), weight.size(0));
}

// ---- matmul
// ------------------------------------------------------------------------------------------------------------

// So many rows at a time: bounds the interleaved copy of x, and keeps a chunk of it in the second-level cache. A
// multiple of every kernel's tile.
constexpr int64_t kRowBlock = 252;

// The interleaved copy of x: kept by the thread that calls, for the next call.
float* tile_memory(int64_t num_floats) {
  thread_local HugeMemory memory(nullptr, Unmap{0});
  thread_local int64_t capacity = 0;
  if (num_floats > capacity) {
    memory.reset();
    capacity = 0;
    memory = allocate_huge(static_cast<size_t>(num_floats) * sizeof(float));
    capacity = num_floats;
  }
  return reinterpret_cast<float*>(memory.get());
}

// rows[num_rows][stride] -> tile[depth][num_rows]
void interleave(const float* rows, int64_t num_rows, int64_t stride, int64_t depth, float* tile) {
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t row = 0; row < num_rows; ++row) tile[k * num_rows + row] = rows[row * stride + k];
}

void interleave_tile(const Product& product, const float* x, int64_t tile, float* out) {
  const int64_t stride = product.weight->in_features();
  const int64_t begin = product.tile_begin(tile);
  const int64_t num_rows = product.tile_begin(tile + 1) - begin;
  for (int64_t k = 0; k < stride; k += kChunk)
    interleave(x + begin * stride + k, num_rows, stride, product.chunk_depth(k), out + product.x_offset(tile, k));
}

const float* interleaved(const Product& product, const float* x) {
  if (product.num_rows == 1) return x;
  const int64_t size = product.num_rows * product.weight->in_features();
  float* out = tile_memory(size);
  share_out(product.num_tiles, size, [&](int64_t tile) { interleave_tile(product, x, tile, out); });
  return out;
}

// A multiple of 4, so that kernels can take panels together; small enough that all threads finish together.
int64_t panels_per_task(const Product& product) {
  const int64_t even_share = product.weight->num_panels() / (4 * num_threads());
  return std::clamp<int64_t>(even_share / 4 * 4, 4, product.num_tiles == 1 ? 64 : 8);
}

void multiply_rows(Product product, const float* x) {
  const MatmulKernels& kernels = TRANSOM_PICK(matmul_kernels);
  const int64_t num_panels = product.weight->num_panels();
  product.num_tiles = (product.num_rows + kernels.tile_rows - 1) / kernels.tile_rows;
  product.x = interleaved(product, x);
  const int64_t step = panels_per_task(product);
  const int64_t work = product.num_rows * num_panels * product.weight->in_features();
  share_out((num_panels + step - 1) / step, work,
            [&](int64_t task) { kernels.multiply(product, task * step, std::min((task + 1) * step, num_panels)); });
}

nb::object matmul(nb::handle x_object, const PackedMatrix& weight, nb::handle bias_object) {
  const ArrayView x(x_object, "x", Dtype::f32, 2);
  x.expect_size(1, weight.in_features());
  std::optional<ArrayView> bias;
  if (!bias_object.is_none()) bias.emplace(bias_object, "bias", Dtype::f32, 1).expect_size(0, weight.out_features());
  const int64_t num_rows = x.size(0);
  nb::object result = new_array({num_rows, weight.out_features()});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  for (int64_t row = 0; row < num_rows; row += kRowBlock) {
    multiply_rows({&weight, nullptr, bias ? bias->data<float>() : nullptr,
                   out.mutable_data<float>() + row * weight.out_features(), std::min(kRowBlock, num_rows - row), 1},
                  x.data<float>() + row * weight.in_features());
  }
  return result;
}

// ---- embed
// -------------------------------------------------------------------------------------------------------------

void check_token_ids(const ArrayView& token_ids, int64_t vocab_size) {
  for (int64_t i = 0; i < token_ids.size(0); ++i) {
    const int32_t id = token_ids.data<int32_t>()[i];
    if (id < 0 || id >= vocab_size) {
      throw std::invalid_argument("token id " + std::to_string(id) + " is not in 0.." + std::to_string(vocab_size - 1));
    }
  }
}

nb::object embed(const PackedMatrix& weight, nb::handle token_ids_object) {
  const ArrayView token_ids(token_ids_object, "token_ids", Dtype::i32, 1);
  check_token_ids(token_ids, weight.out_features());
  const int64_t num_tokens = token_ids.size(0);
  const int64_t depth = weight.in_features();
  nb::object result = new_array({num_tokens, depth});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  const MatmulKernels& kernels = TRANSOM_PICK(matmul_kernels);
  share_out(num_tokens, num_tokens * depth * 8, [&](int64_t i) {
    kernels.copy_row(weight, token_ids.data<int32_t>()[i], out.mutable_data<float>() + i * depth);
  });
  return result;
}

}  // namespace

void bind_matmul(nb::module_& module) {
  nb::class_<PackedMatrix>(module, "PackedMatrix")
      .def(
          "__init__",
          [](PackedMatrix* self, int64_t out_features, int64_t in_features, const std::string& dtype) {
            new (self) PackedMatrix(out_features, in_features, type_by_name(dtype));
          },
          nb::arg("out_features"), nb::arg("in_features"), nb::arg("dtype"))
      .def("fill", &fill, nb::arg("row"), nb::arg("weight"))
      .def_prop_ro("out_features", &PackedMatrix::out_features)
      .def_prop_ro("in_features", &PackedMatrix::in_features)
      .def_prop_ro("nbytes", &PackedMatrix::num_bytes)
      .def_prop_ro("dtype", [](const PackedMatrix& self) { return kTypeNames[static_cast<int>(self.type())]; });
  module.def("matmul", &matmul, nb::arg("x"), nb::arg("weight"), nb::arg("bias") = nb::none());
  module.def("embed", &embed, nb::arg("weight"), nb::arg("token_ids"));
}

}  // namespace transom
