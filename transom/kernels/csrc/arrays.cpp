#include "arrays.h"

#include <cstring>

namespace nb = nanobind;

namespace transom {
namespace {

struct DtypeFacts {
  const char* name;
  const char* formats;  // of the buffer protocol: any of these characters
  int64_t item_bytes;
};

const DtypeFacts& facts_of(Dtype dtype) {
  static constexpr DtypeFacts kFacts[] = {{"float32", "f", 4}, {"float16", "e", 2}, {"uint16 (bfloat16)", "H", 2},
                                          {"int32", "i", 4},   {"uint8", "B", 1},   {"int64", "lq", 8},
                                          {"uint64", "LQ", 8}};
  return kFacts[static_cast<int>(dtype)];
}

// NumPy writes "f" for aligned arrays and "=f" for others.
bool has_format(const Py_buffer& buffer, const char* formats) {
  const char* given = buffer.format == nullptr ? "B" : buffer.format;
  if (given[0] == '=') ++given;
  return given[0] != '\0' && std::strchr(formats, given[0]) != nullptr && given[1] == '\0';
}

bool is_empty(const Py_buffer& buffer) {
  for (int axis = 0; axis < buffer.ndim; ++axis)
    if (buffer.shape[axis] == 0) return true;
  return false;
}

// Strides of axes with fewer than two entries mean nothing.
bool is_c_order(const Py_buffer& buffer, int first_axis) {
  Py_ssize_t expected = buffer.itemsize;
  for (int axis = buffer.ndim - 1; axis >= first_axis; --axis) {
    if (buffer.shape[axis] > 1 && buffer.strides[axis] != expected) return false;
    expected *= buffer.shape[axis];
  }
  return true;
}

bool is_aligned(const Py_buffer& buffer) {
  return reinterpret_cast<uintptr_t>(buffer.buf) % buffer.itemsize == 0 &&
         (buffer.ndim == 0 || buffer.strides[0] % buffer.itemsize == 0);
}

template <class... Arguments>
[[noreturn]] void raise_value_error(const char* format, Arguments... arguments) {
  PyErr_Format(PyExc_ValueError, format, arguments...);
  nb::raise_python_error();
}

// An attribute of numpy, never destroyed: an object of a static must not be released after the interpreter is gone.
PyObject* immortal(const char* name) { return nb::object(nb::module_::import_("numpy").attr(name)).release().ptr(); }

nb::object new_array_of(PyObject* dtype, std::initializer_list<int64_t> shape) {
  static PyObject* const empty = immortal("empty");
  nb::object sizes = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
  Py_ssize_t axis = 0;
  for (int64_t size : shape) PyTuple_SET_ITEM(sizes.ptr(), axis++, PyLong_FromLongLong(size));
  PyObject* const arguments[] = {sizes.ptr(), dtype};
  PyObject* result = PyObject_Vectorcall(empty, arguments, 2, nullptr);
  if (result == nullptr) nb::raise_python_error();
  return nb::steal(result);
}

}  // namespace

ArrayView::ArrayView(nb::handle array, const char* name, Dtype dtype, int num_axes, Access access, Layout layout)
    : name_(name) {
  const int flags = PyBUF_FORMAT | PyBUF_STRIDES | (access == Access::write ? PyBUF_WRITABLE : 0);
  if (PyObject_GetBuffer(array.ptr(), &buffer_, flags) != 0) {
    const bool is_array = PyObject_CheckBuffer(array.ptr());
    PyErr_Clear();
    if (is_array) nb::raise_type_error("%s must be %sarray", name, access == Access::write ? "a writable " : "an ");
    nb::raise_type_error("%s must be an array, not %s", name, Py_TYPE(array.ptr())->tp_name);
  }
  try {
    check(dtype, num_axes, layout);
  } catch (...) {
    PyBuffer_Release(&buffer_);
    throw;
  }
}

ArrayView::~ArrayView() { PyBuffer_Release(&buffer_); }

void ArrayView::check(Dtype dtype, int num_axes, Layout layout) const {
  const DtypeFacts& facts = facts_of(dtype);
  if (!has_format(buffer_, facts.formats)) {
    nb::raise_type_error("%s must have dtype %s, not '%s'", name_, facts.name, buffer_.format ? buffer_.format : "B");
  }
  if (buffer_.ndim != num_axes) raise_value_error("%s must have %d axes, not %d", name_, num_axes, buffer_.ndim);
  if (!is_empty(buffer_) && !is_c_order(buffer_, layout == Layout::strided_rows ? 1 : 0)) {
    raise_value_error("%s must be contiguous in C order%s", name_,
                      layout == Layout::strided_rows ? " within each entry of its first axis" : "");
  }
  if (layout != Layout::contiguous_unaligned && !is_aligned(buffer_))
    raise_value_error("%s must be aligned to its element size", name_);
}

void ArrayView::expect_size(int axis, int64_t size) const {
  if (buffer_.shape[axis] == size) return;
  raise_value_error("axis %d of %s must have size %lld, not %lld", axis, name_, static_cast<long long>(size),
                    static_cast<long long>(buffer_.shape[axis]));
}

nb::object new_array(std::initializer_list<int64_t> shape) {
  static PyObject* const float32 = immortal("float32");
  return new_array_of(float32, shape);
}

nb::object new_byte_array(std::initializer_list<int64_t> shape) {
  static PyObject* const uint8 = immortal("uint8");
  return new_array_of(uint8, shape);
}

}  // namespace transom
