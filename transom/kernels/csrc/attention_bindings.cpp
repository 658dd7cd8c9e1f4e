#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace transom {

void bind_attention(nb::module_&) {}

}  // namespace transom
