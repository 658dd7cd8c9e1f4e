#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "dequantize.h"
#include "dispatch.h"
#include "matrix_product.h"

namespace nb = nanobind;

namespace transom {
namespace {

WeightType type_by_name(const std::string& name) {
  std::string known;
  for (int i = 0; i < kNumWeightTypes; ++i) {
    if (name == kWeightTypeFacts[i].name) return static_cast<WeightType>(i);
    known += std::string(i == 0 ? "" : ", ") + kWeightTypeFacts[i].name;
  }
  throw std::invalid_argument("unknown weight type '" + name + "'; known: " + known);
}

WeightType quantized_type_by_name(const std::string& name) {
  const WeightType type = type_by_name(name);
  if (!is_quantized(type)) throw std::invalid_argument("'" + name + "' is not a quantised type");
  return type;
}

Dtype dtype_of(WeightType type) {
  switch (type) {
    case WeightType::f32:
      return Dtype::f32;
    case WeightType::f16:
      return Dtype::f16;
    case WeightType::bf16:
      return Dtype::bf16;
    default:
      return Dtype::u8;
  }
}

// ---- matrices ----

void fill(PackedMatrix& matrix, int64_t row, nb::handle weight_object) {
  const WeightType type = matrix.type();
  const ArrayView weight(weight_object, "weight", dtype_of(type), 2, Access::read, Layout::contiguous_unaligned);
  weight.expect_size(1, is_quantized(type) ? row_bytes(type, matrix.in_features()) : matrix.in_features());
  if (row < 0 || row > matrix.out_features() - weight.size(0))
    throw std::invalid_argument("weight does not fit: too many rows");
  nb::gil_scoped_release release;
  matrix.fill(row, weight.data<std::byte>(), weight.size(0));
}

int64_t bytes_of_row(const std::string& dtype, int64_t in_features) {
  const WeightType type = type_by_name(dtype);
  if (in_features < 1) throw std::invalid_argument("a row needs at least one column");
  check_in_features(type, in_features);
  return row_bytes(type, in_features);
}

int64_t bytes_of_matrix(int64_t out_features, int64_t in_features, const std::string& dtype) {
  return packed_bytes(out_features, in_features, type_by_name(dtype));
}

// ---- products ----

// A matrix, or a sequence of matrices with the same number of columns.
std::vector<const PackedMatrix*> matrices_of(nb::handle weight) {
  std::vector<const PackedMatrix*> matrices;
  if (nb::isinstance<PackedMatrix>(weight)) {
    matrices.push_back(nb::cast<const PackedMatrix*>(weight));
    return matrices;
  }
  if (!PySequence_Check(weight.ptr()))
    nb::raise_type_error("weight must be a PackedMatrix or a sequence of them, not %s", Py_TYPE(weight.ptr())->tp_name);
  for (nb::handle item : weight) {
    if (!nb::isinstance<PackedMatrix>(item))
      nb::raise_type_error("weight must hold PackedMatrix, not %s", Py_TYPE(item.ptr())->tp_name);
    matrices.push_back(nb::cast<const PackedMatrix*>(item));
    if (matrices.back()->in_features() != matrices.front()->in_features())
      throw std::invalid_argument("matrices of one product must have the same number of columns");
  }
  if (matrices.empty()) throw std::invalid_argument("weight must not be empty");
  return matrices;
}

nb::object matmul(nb::handle x_object, nb::handle weight, nb::handle bias_object) {
  const std::vector<const PackedMatrix*> matrices = matrices_of(weight);
  int64_t num_columns = 0;
  for (const PackedMatrix* matrix : matrices) num_columns += matrix->out_features();
  const ArrayView x(x_object, "x", Dtype::f32, 2);
  x.expect_size(1, matrices.front()->in_features());
  std::optional<ArrayView> bias;
  if (!bias_object.is_none()) bias.emplace(bias_object, "bias", Dtype::f32, 1).expect_size(0, num_columns);
  nb::object result = new_array({x.size(0), num_columns});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  multiply_matrices(matrices, x.data<float>(), x.size(0), bias ? bias->data<float>() : nullptr,
                    out.mutable_data<float>());
  return result;
}

// ---- rows as floats ----

void check_token_ids(const ArrayView& token_ids, int64_t vocab_size) {
  for (int64_t i = 0; i < token_ids.size(0); ++i) {
    const int32_t id = token_ids.data<int32_t>()[i];
    if (id < 0 || id >= vocab_size) {
      throw std::invalid_argument("token id " + std::to_string(id) + " is not in 0.." + std::to_string(vocab_size - 1));
    }
  }
}

// What a weight costs to convert, in multiply-adds.
constexpr int64_t kConversionWork = 8;

nb::object embed(const PackedMatrix& weight, nb::handle token_ids_object) {
  const ArrayView token_ids(token_ids_object, "token_ids", Dtype::i32, 1);
  check_token_ids(token_ids, weight.out_features());
  const int64_t num_tokens = token_ids.size(0);
  const int64_t depth = weight.in_features();
  nb::object result = new_array({num_tokens, depth});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  share_out(num_tokens, num_tokens * depth * kConversionWork, [&](int64_t i) {
    copy_matrix_row(weight, token_ids.data<int32_t>()[i], out.mutable_data<float>() + i * depth);
  });
  return result;
}

nb::object dequantize(const std::string& dtype, nb::handle rows_object) {
  const WeightType type = quantized_type_by_name(dtype);
  const WeightTypeFacts& facts = facts_of(type);
  const ArrayView rows(rows_object, "rows", Dtype::u8, 2, Access::read, Layout::contiguous_unaligned);
  if (rows.size(1) % facts.block_bytes != 0) {
    throw std::invalid_argument("rows of " + dtype + " are blocks of " + std::to_string(facts.block_bytes) +
                                " bytes; a row of " + std::to_string(rows.size(1)) + " bytes is not a whole number");
  }
  const int64_t num_rows = rows.size(0);
  const int64_t depth = rows.size(1) / facts.block_bytes * facts.block_size;
  nb::object result = new_array({num_rows, depth});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  share_out(num_rows, num_rows * depth * kConversionWork, [&](int64_t i) {
    dequantize_row(type, depth, rows.data<std::byte>() + i * rows.size(1), out.mutable_data<float>() + i * depth);
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
      .def_prop_ro("dtype", [](const PackedMatrix& self) { return facts_of(self.type()).name; });
  module.def("matmul", &matmul, nb::arg("x"), nb::arg("weight"), nb::arg("bias") = nb::none());
  module.def("embed", &embed, nb::arg("weight"), nb::arg("token_ids"));
  module.def("row_bytes", &bytes_of_row, nb::arg("dtype"), nb::arg("in_features"));
  module.def("packed_bytes", &bytes_of_matrix, nb::arg("out_features"), nb::arg("in_features"), nb::arg("dtype"));
  module.def("dequantize", &dequantize, nb::arg("dtype"), nb::arg("rows"));
}

}  // namespace transom
