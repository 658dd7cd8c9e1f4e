#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "memory.h"
#include "thread_pool.h"

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

constexpr int64_t kLineBytes = 64;
constexpr int64_t kPiece = int64_t{1} << 20;

// XOR of all words, read as four streams, each with its prefetch.
uint64_t xor_piece(const std::byte* data, int64_t num_bytes) {
  constexpr int kStreams = 4;
  constexpr int64_t kAheadBytes = 4096;
  const int64_t stream_bytes = num_bytes / kStreams;
  uint64_t lanes[kLineBytes / 8] = {};
  for (int64_t i = 0; i < stream_bytes; i += kLineBytes) {
    for (int stream = 0; stream < kStreams; ++stream) {
      const std::byte* line = data + stream * stream_bytes + i;
      __builtin_prefetch(line + kAheadBytes);
      for (int lane = 0; lane < kLineBytes / 8; ++lane) {
        uint64_t word;
        std::memcpy(&word, line + lane * 8, 8);
        lanes[lane] ^= word;
      }
    }
  }
  uint64_t result = 0;
  for (uint64_t lane : lanes) result ^= lane;
  return result;
}

// All whole pieces, shared out to all threads.
uint64_t xor_words(const std::byte* data, int64_t num_bytes) {
  std::atomic<uint64_t> result{0};
  parallel_for(num_bytes / kPiece, [&](int64_t piece) {
    result.fetch_xor(xor_piece(data + piece * kPiece, kPiece), std::memory_order_relaxed);
  });
  return result;
}

double measure_read_bandwidth(int64_t num_bytes) {
  if (num_bytes < kPiece) throw std::invalid_argument("a bandwidth is measured on at least one MiB");
  const int64_t size = num_bytes / kPiece * kPiece;
  const HugeMemory memory = allocate_huge(static_cast<size_t>(size));
  std::memset(memory.get(), 1, static_cast<size_t>(size));
  const auto begin = std::chrono::steady_clock::now();
  const uint64_t sum = xor_words(memory.get(), size);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  if (sum != 0) throw std::runtime_error("memory does not hold what was written to it");
  return static_cast<double>(size) / seconds.count();
}

}  // namespace

void bind_memory(nb::module_& module) {
  module.def("allocate_arena", &allocate_arena, nb::arg("num_bytes"));
  module.def("measure_read_bandwidth", &measure_read_bandwidth, nb::arg("num_bytes"),
             nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace transom
