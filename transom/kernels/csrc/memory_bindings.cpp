#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>

#include "memory.h"

namespace nb = nanobind;

namespace transom {
namespace {

using Bytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

Bytes allocate_arena(size_t num_bytes) {
  auto memory = std::make_unique<HugeMemory>(allocate_huge(num_bytes));
  std::byte* data = memory->get();
  nb::capsule owner(memory.release(), [](void* pointer) noexcept { delete static_cast<HugeMemory*>(pointer); });
  return Bytes(data, {num_bytes}, owner);
}

}  // namespace

void bind_memory(nb::module_& module) {
  module.def("allocate_arena", &allocate_arena, nb::arg("num_bytes"),
             "Zero-filled uint8[num_bytes], 4096-aligned, in huge pages where possible. Raises MemoryError.");
}

}  // namespace transom
