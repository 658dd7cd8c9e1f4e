#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "arrays.h"
#include "quantize.h"

namespace nb = nanobind;

namespace transom {
namespace {

struct Target {
  int64_t elements, bytes;  // of a block
  QuantizeBlocks quantize;
  int64_t work_per_element;
};

Target target_by_name(const std::string& name) {
  const QuantizeKernels& blocks = TRANSOM_PICK(quantize_kernels);
  const QuantizeSuperblockKernels& superblocks = TRANSOM_PICK(quantize_superblock_kernels);
  if (name == "q8_0") return {32, 34, blocks.q8_0, 4};
  if (name == "q4_0") return {32, 18, blocks.q4_0, 4};
  if (name == "q4_k") return {256, 144, superblocks.q4_k, 128};
  if (name == "q5_k") return {256, 176, superblocks.q5_k, 128};
  if (name == "q6_k") return {256, 210, superblocks.q6_k, 128};
  throw std::invalid_argument("cannot quantize to '" + name + "'; known: q8_0, q4_0, q4_k, q5_k, q6_k");
}

void lower_to(std::atomic<int64_t>& least, int64_t value) {
  int64_t seen = least.load();
  while (value < seen && !least.compare_exchange_weak(seen, value)) {
  }
}

// The first row that cannot be quantised, or num_rows.
int64_t first_bad_row(const float* x, int64_t num_rows, int64_t width) {
  const QuantizeKernels& kernels = TRANSOM_PICK(quantize_kernels);
  std::atomic<int64_t> least{num_rows};
  share_out(num_rows, num_rows * width, [&](int64_t row) {
    if (!kernels.can_quantize(x + row * width, width)) lower_to(least, row);
  });
  return least.load();
}

void quantize_rows(const Target& target, const float* x, int64_t num_blocks, uint8_t* out) {
  const int64_t together = 16384 / target.elements;  // blocks of one unit of sharing, 64 KiB of floats
  const int64_t work = num_blocks * target.elements * target.work_per_element;
  share_out((num_blocks + together - 1) / together, work, [&](int64_t unit) {
    const int64_t first = unit * together;
    target.quantize(x + first * target.elements, std::min(together, num_blocks - first), out + first * target.bytes);
  });
}

nb::object quantize(const std::string& dtype, nb::handle weight_object) {
  const Target target = target_by_name(dtype);
  const ArrayView weight(weight_object, "weight", Dtype::f32, 2);
  const int64_t num_rows = weight.size(0), width = weight.size(1);
  if (width % target.elements != 0)
    throw std::invalid_argument("rows of " + std::to_string(width) + " elements are no multiple of " + dtype +
                                "'s block of " + std::to_string(target.elements));
  const int64_t blocks_of_row = width / target.elements;
  nb::object result = new_byte_array({num_rows, blocks_of_row * target.bytes});
  const ArrayView out(result, "result", Dtype::u8, 2, Access::write);
  int64_t bad_row;
  {
    nb::gil_scoped_release release;
    bad_row = first_bad_row(weight.data<float>(), num_rows, width);
    if (bad_row == num_rows)
      quantize_rows(target, weight.data<float>(), num_rows * blocks_of_row, out.mutable_data<uint8_t>());
  }
  if (bad_row < num_rows)
    throw std::invalid_argument("row " + std::to_string(bad_row) + " holds NaN, infinity or a magnitude of " +
                                std::to_string(static_cast<int64_t>(kMaxMagnitude)) + " or more");
  return result;
}

}  // namespace

void bind_quantize(nb::module_& module) { module.def("quantize", &quantize, nb::arg("dtype"), nb::arg("weight")); }

}  // namespace transom
