// NumPy arrays at the border: checked once where they enter a kernel, so that kernels can trust plain pointers.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <initializer_list>

namespace transom {

enum class Dtype { f32, f16, bf16, i32, u8, i64, u64 };  // bf16 travels as uint16
enum class Access { read, write };
enum class Layout {
  contiguous,            // C order
  contiguous_unaligned,  // C order at any address: views of files
  strided_rows,          // C order but for the first axis, whose stride is free
};

// A view of an array for the duration of a call. Construct and destroy with the GIL held; use the pointer without it.
class ArrayView {
 public:
  // Throws TypeError (no array, another dtype) or ValueError (number of axes, layout, alignment, read-only); the
  // message names the parameter.
  ArrayView(nanobind::handle array, const char* name, Dtype dtype, int num_axes, Access access = Access::read,
            Layout layout = Layout::contiguous);
  ~ArrayView();
  ArrayView(const ArrayView&) = delete;
  ArrayView& operator=(const ArrayView&) = delete;

  int64_t size(int axis) const { return buffer_.shape[axis]; }
  int64_t stride_bytes(int axis) const { return buffer_.strides[axis]; }
  template <class T>
  const T* data() const {
    return static_cast<const T*>(buffer_.buf);
  }
  template <class T>
  T* mutable_data() const {
    return static_cast<T*>(buffer_.buf);
  }
  // Throws ValueError unless the axis has this size.
  void expect_size(int axis, int64_t size) const;

 private:
  void check(Dtype dtype, int num_axes, Layout layout) const;

  const char* name_;
  Py_buffer buffer_;
};

// A fresh uninitialised array, of float32 or of uint8. Needs the GIL.
nanobind::object new_array(std::initializer_list<int64_t> shape);
nanobind::object new_byte_array(std::initializer_list<int64_t> shape);

}  // namespace transom
