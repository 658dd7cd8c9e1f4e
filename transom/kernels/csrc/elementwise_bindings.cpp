#include <nanobind/nanobind.h>

#include <algorithm>
#include <stdexcept>

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

nb::object swiglu(nb::handle gate_up_object) {
  const ArrayView gate_up(gate_up_object, "gate_up", Dtype::f32, 2);
  if (gate_up.size(1) % 2 != 0) throw std::invalid_argument("gate_up must have an even number of columns");
  const int64_t width = gate_up.size(1) / 2;
  nb::object result = new_array({gate_up.size(0), width});
  const ArrayView out(result, "result", Dtype::f32, 2, Access::write);
  nb::gil_scoped_release release;
  const ElementwiseKernels& kernels = TRANSOM_PICK(elementwise_kernels);
  for_each_row(gate_up.size(0), width * 16, [&](int64_t row) {
    const float* gate = gate_up.data<float>() + row * 2 * width;
    kernels.swiglu(gate, gate + width, width, out.mutable_data<float>() + row * width);
  });
  return result;
}

}  // namespace

void bind_elementwise(nb::module_& module) {
  module.def("rms_norm", &rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("eps"));
  module.def("add_rms_norm", &add_rms_norm, nb::arg("x"), nb::arg("update"), nb::arg("weight"), nb::arg("eps"));
  module.def("rotate", &rotate, nb::arg("x"), nb::arg("cos"), nb::arg("sin"));
  module.def("swiglu", &swiglu, nb::arg("gate_up"));
}

}  // namespace transom
