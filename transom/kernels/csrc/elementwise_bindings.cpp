#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace transom {

void bind_elementwise(nb::module_&) {}

}  // namespace transom
