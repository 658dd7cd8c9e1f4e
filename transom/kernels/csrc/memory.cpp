#include "memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <limits>
#include <new>

namespace transom {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

std::byte* map_pages(size_t num_bytes) {
  void* address = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(address);
}

// mmap promises no more than page alignment: map too much, give back both ends.
std::byte* map_huge_pages(size_t num_bytes) {
  std::byte* raw = map_pages(num_bytes + kHugePage);
  const size_t before = round_up(reinterpret_cast<uintptr_t>(raw), kHugePage) - reinterpret_cast<uintptr_t>(raw);
  if (before != 0) munmap(raw, before);
  if (before != kHugePage) munmap(raw + before + num_bytes, kHugePage - before);
#if defined(MADV_HUGEPAGE)
  madvise(raw + before, num_bytes, MADV_HUGEPAGE);  // advice only: without huge pages everything still works
#endif
  return raw + before;
}

}  // namespace

void Unmap::operator()(std::byte* data) const noexcept { munmap(data, num_bytes); }

HugeMemory allocate_huge(size_t num_bytes) {
  if (num_bytes > std::numeric_limits<size_t>::max() / 2) throw std::bad_alloc();
  const size_t size = num_bytes == 0 ? kPage : round_up(num_bytes, kPage);
  return HugeMemory(size < kHugePage ? map_pages(size) : map_huge_pages(size), Unmap{size});
}

}  // namespace transom
