#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace transom {

void bind_matmul(nb::module_&) {}

}  // namespace transom
