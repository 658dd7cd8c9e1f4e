// Large zero-filled memory for weights and KV: page-aligned, in huge pages where the system grants them.
#pragma once

#include <cstddef>
#include <memory>

namespace transom {

struct Unmap {
  size_t num_bytes;
  void operator()(std::byte* data) const noexcept;
};
using HugeMemory = std::unique_ptr<std::byte[], Unmap>;

// Zero-filled and 4096-aligned; 2 MiB-aligned when at least that large. Pages are taken from the system when first
// touched. num_bytes == 0 gives one page. Throws std::bad_alloc.
HugeMemory allocate_huge(size_t num_bytes);

}  // namespace transom
