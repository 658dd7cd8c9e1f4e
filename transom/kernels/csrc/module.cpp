// The native module `transom.kernels._native`: one `bind_*` per kernel family.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "isa.h"
#include "thread_pool.h"

namespace nb = nanobind;

namespace transom {

void bind_attention(nb::module_& module);
void bind_elementwise(nb::module_& module);
void bind_io(nb::module_& module);
void bind_matmul(nb::module_& module);
void bind_memory(nb::module_& module);
void bind_quantize(nb::module_& module);

namespace {

constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512", "avx512vnni"};

Isa isa_by_name(const std::string& name) {
  for (int i = 0; i < 4; ++i)
    if (name == kIsaNames[i]) return static_cast<Isa>(i);
  throw std::invalid_argument("unknown instruction set '" + name + "'; known: portable, avx2, avx512, avx512vnni");
}

}  // namespace
}  // namespace transom

NB_MODULE(_native, module) {
  using namespace transom;
  module.def("set_num_threads", [](int count) {
    if (count < 1 || count > 1024) throw std::invalid_argument("number of threads must be in 1..1024");
    nb::gil_scoped_release release;
    set_num_threads(count);
  });
  module.def("num_threads", &num_threads, nb::call_guard<nb::gil_scoped_release>());
  module.def("active_isa", [] { return std::string(kIsaNames[static_cast<int>(active_isa())]); });
  module.def("best_isa", [] { return std::string(kIsaNames[static_cast<int>(best_isa())]); });
  module.def("set_active_isa", [](const std::string& name) { set_active_isa(isa_by_name(name)); });
  bind_memory(module);
  bind_matmul(module);
  bind_elementwise(module);
  bind_attention(module);
  bind_io(module);
  bind_quantize(module);
}
