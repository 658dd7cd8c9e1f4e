#include <nanobind/nanobind.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <vector>

#include "arrays.h"
#include "elementwise.h"

namespace nb = nanobind;

namespace transom {
namespace {

// Calls task(row) for all rows, several per unit of sharing.
template <class Task>
void for_each_row(int64_t num_rows, int64_t work_per_row, const Task& task) {
  constexpr int64_t kRowsTogether = 8;
  share_out((num_rows + kRowsTogether - 1) / kRowsTogether, num_rows * work_per_row, [&](int64_t group) {
    const int64_t end = std::min((group + 1) * kRowsTogether, num_rows);
    for (int64_t row = group * kRowsTogether; row < end; ++row) task(row);
  });
}

nb::object rms_norm(nb::handle x_object, nb::handle weight_object, float epsilon) {
  const ArrayView x(x_object, "x", Dtype::f32, 2);
  const ArrayView weight(weight_object, "weight", Dtype::f32, 1);
  const int64_t width = x.size(1);
  weight.expect_size(0, width);
  nb::object result = new_array({x.size(0), width});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  const ElementwiseKernels& kernels = TRANSOM_PICK(elementwise_kernels);
  for_each_row(x.size(0), width * 4, [&](int64_t row) {
    kernels.rms_norm(x.data<float>() + row * width, weight.data<float>(), epsilon, width,
                     out.mutable_data<float>() + row * width);
  });
  return result;
}

nb::object add_rms_norm(nb::handle x_object, nb::handle update_object, nb::handle weight_object, float epsilon) {
  const ArrayView x(x_object, "x", Dtype::f32, 2, Access::write);
  const ArrayView update(update_object, "update", Dtype::f32, 2);
  const ArrayView weight(weight_object, "weight", Dtype::f32, 1);
  const int64_t width = x.size(1);
  update.expect_size(0, x.size(0));
  update.expect_size(1, width);
  weight.expect_size(0, width);
  nb::object result = new_array({x.size(0), width});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  const ElementwiseKernels& kernels = TRANSOM_PICK(elementwise_kernels);
  for_each_row(x.size(0), width * 5, [&](int64_t row) {
    kernels.add_rms_norm(x.mutable_data<float>() + row * width, update.data<float>() + row * width,
                         weight.data<float>(), epsilon, width, out.mutable_data<float>() + row * width);
  });
  return result;
}

void rotate(nb::handle x_object, nb::handle cosine_object, nb::handle sine_object) {
  const ArrayView x(x_object, "x", Dtype::f32, 3, Access::write, Layout::strided_rows);
  const ArrayView cosine(cosine_object, "cos", Dtype::f32, 2);
  const ArrayView sine(sine_object, "sin", Dtype::f32, 2);
  const int64_t half = cosine.size(1);
  cosine.expect_size(0, x.size(0));
  sine.expect_size(0, x.size(0));
  sine.expect_size(1, half);
  if (2 * half > x.size(2)) throw std::invalid_argument("cos and sin turn more dimensions than a head has");
  const int64_t row_stride = x.stride_bytes(0) / static_cast<int64_t>(sizeof(float));
  nb::gil_scoped_release release;
  const ElementwiseKernels& kernels = TRANSOM_PICK(elementwise_kernels);
  for_each_row(x.size(0), x.size(1) * x.size(2) * 2, [&](int64_t row) {
    kernels.rotate(x.mutable_data<float>() + row * row_stride, x.size(1), x.size(2),
                   {cosine.data<float>() + row * half, sine.data<float>() + row * half, half});
  });
}

using Gate = void (*)(const float* gate, const float* up, int64_t width, float* out);

nb::object gated(nb::handle gate_up_object, Gate gate) {
  const ArrayView gate_up(gate_up_object, "gate_up", Dtype::f32, 2);
  if (gate_up.size(1) % 2 != 0) throw std::invalid_argument("gate_up must have an even number of columns");
  const int64_t width = gate_up.size(1) / 2;
  nb::object result = new_array({gate_up.size(0), width});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  for_each_row(gate_up.size(0), width * 16, [&](int64_t row) {
    const float* first = gate_up.data<float>() + row * 2 * width;
    gate(first, first + width, width, out.mutable_data<float>() + row * width);
  });
  return result;
}

nb::object swiglu(nb::handle gate_up) { return gated(gate_up, TRANSOM_PICK(elementwise_kernels).swiglu); }

nb::object geglu(nb::handle gate_up) { return gated(gate_up, TRANSOM_PICK(elementwise_kernels).geglu); }

void rms_norm_heads(nb::handle x_object, nb::handle weight_object, float epsilon) {
  const ArrayView x(x_object, "x", Dtype::f32, 3, Access::write, Layout::strided_rows);
  const ArrayView weight(weight_object, "weight", Dtype::f32, 1);
  const int64_t num_heads = x.size(1), head_dim = x.size(2);
  weight.expect_size(0, head_dim);
  const int64_t row_stride = x.stride_bytes(0) / static_cast<int64_t>(sizeof(float));
  nb::gil_scoped_release release;
  const ElementwiseKernels& kernels = TRANSOM_PICK(elementwise_kernels);
  for_each_row(x.size(0), num_heads * head_dim * 4, [&](int64_t row) {
    for (int64_t head = 0; head < num_heads; ++head) {
      float* values = x.mutable_data<float>() + row * row_stride + head * head_dim;
      kernels.rms_norm(values, weight.data<float>(), epsilon, head_dim, values);
    }
  });
}

void soft_cap(nb::handle x_object, float cap) {
  const ArrayView x(x_object, "x", Dtype::f32, 2, Access::write);
  if (!(cap > 0.0f)) throw std::invalid_argument("cap must be positive");
  const int64_t width = x.size(1);
  nb::gil_scoped_release release;
  const ElementwiseKernels& kernels = TRANSOM_PICK(elementwise_kernels);
  for_each_row(x.size(0), width * 16,
               [&](int64_t row) { kernels.soft_cap(x.mutable_data<float>() + row * width, cap, width); });
}

nb::object softmax(nb::handle x_object) {
  const ArrayView x(x_object, "x", Dtype::f32, 2);
  const int64_t width = x.size(1);
  nb::object result = new_array({x.size(0), width});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  const ElementwiseKernels& kernels = TRANSOM_PICK(elementwise_kernels);
  for_each_row(x.size(0), width * 16, [&](int64_t row) {
    kernels.softmax(x.data<float>() + row * width, width, out.mutable_data<float>() + row * width);
  });
  return result;
}

// Which sequence a row belongs to, and where that begins.
void check_starts(const ArrayView& starts, int64_t num_rows) {
  const int32_t* at = starts.data<int32_t>();
  const int64_t count = starts.size(0) - 1;
  if (count < 0 || at[0] != 0 || at[count] != num_rows || !std::is_sorted(at, at + count + 1))
    throw std::invalid_argument("sequence_starts must ascend from 0 to the number of rows");
}

nb::object short_conv(nb::handle x_object, nb::handle history_object, nb::handle starts_object,
                      nb::handle weight_object, nb::handle bias_object) {
  const ArrayView x(x_object, "x", Dtype::f32, 2);
  const ArrayView history(history_object, "history", Dtype::f32, 3);
  const ArrayView starts(starts_object, "sequence_starts", Dtype::i32, 1);
  const ArrayView weight(weight_object, "weight", Dtype::f32, 2);
  std::optional<ArrayView> bias;
  const int64_t num_rows = x.size(0), width = x.size(1), num_taps = weight.size(0);
  if (num_taps < 1) throw std::invalid_argument("weight must have at least one tap");
  weight.expect_size(1, width);
  check_starts(starts, num_rows);
  history.expect_size(0, starts.size(0) - 1);
  history.expect_size(1, num_taps - 1);
  history.expect_size(2, width);
  if (!bias_object.is_none()) bias.emplace(bias_object, "bias", Dtype::f32, 1).expect_size(0, width);
  nb::object result = new_array({num_rows, width});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  const ElementwiseKernels& kernels = TRANSOM_PICK(elementwise_kernels);
  const int32_t* at = starts.data<int32_t>();
  for_each_row(num_rows, width * num_taps * 2, [&](int64_t row) {
    const int64_t sequence = std::upper_bound(at, at + starts.size(0), row) - at - 1;
    std::vector<const float*> inputs(static_cast<size_t>(num_taps));
    for (int64_t tap = 0; tap < num_taps; ++tap) {
      const int64_t back = row - at[sequence] - (num_taps - 1) + tap;  // from the sequence's first row here
      inputs[tap] = back >= 0 ? x.data<float>() + (at[sequence] + back) * width
                              : history.data<float>() + (sequence * (num_taps - 1) + num_taps - 1 + back) * width;
    }
    kernels.short_conv(inputs.data(), num_taps, weight.data<float>(), bias ? bias->data<float>() : nullptr, width,
                       out.mutable_data<float>() + row * width);
  });
  return result;
}

}  // namespace

void bind_elementwise(nb::module_& module) {
  module.def("rms_norm", &rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("eps"));
  module.def("add_rms_norm", &add_rms_norm, nb::arg("x"), nb::arg("update"), nb::arg("weight"), nb::arg("eps"));
  module.def("rotate", &rotate, nb::arg("x"), nb::arg("cos"), nb::arg("sin"));
  module.def("swiglu", &swiglu, nb::arg("gate_up"));
  module.def("geglu", &geglu, nb::arg("gate_up"));
  module.def("rms_norm_heads", &rms_norm_heads, nb::arg("x"), nb::arg("weight"), nb::arg("eps"));
  module.def("soft_cap", &soft_cap, nb::arg("x"), nb::arg("cap"));
  module.def("softmax", &softmax, nb::arg("x"));
  module.def("short_conv", &short_conv, nb::arg("x"), nb::arg("history"), nb::arg("sequence_starts"), nb::arg("weight"),
             nb::arg("bias") = nb::none());
}

}  // namespace transom
