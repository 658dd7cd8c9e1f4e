// How a run of adjacent items gets from or to its file: whole, in spite of short and interrupted calls, or with an
// error per item.
#pragma once

#include <span>

#include "io_queue.h"

namespace transom {

// At most so many bytes and parts go into one call.
constexpr int64_t kCallBytes = int64_t{1} << 20;
constexpr int64_t kCallParts = kCallBytes / kPageBytes;

// One thread's aligned buffer for slots that are not whole aligned pages.
class BounceBuffer {
 public:
  // Throws std::bad_alloc.
  std::byte* of_size(int64_t num_bytes);

 private:
  HugeMemory memory_{nullptr, Unmap{0}};
  int64_t num_bytes_ = 0;
};

// Blocks until done; sets every item's error, and its checksum when writing. The items are adjacent in the file and
// together at most kCallBytes, or one item, or one item where the batch needs bounce. Throws std::bad_alloc.
void transfer(const IOBatch& batch, std::span<IOItem> items, BounceBuffer& bounce, IOFault* fault);

}  // namespace transom
