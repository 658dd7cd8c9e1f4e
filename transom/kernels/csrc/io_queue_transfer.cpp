#include "io_queue_transfer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace transom {
namespace {

// So many calls in a row without a whole page of progress, then the item is given up.
constexpr int kMaxStalls = 8;

// Parts of one call: slots that happen to be neighbours in memory become one.
class Parts {
 public:
  void add(std::byte* data, int64_t num_bytes) {
    if (count_ > 0 && end_ == data) {
      parts_[count_ - 1].iov_len += static_cast<size_t>(num_bytes);
    } else {
      parts_[count_++] = {data, static_cast<size_t>(num_bytes)};
    }
    end_ = data + num_bytes;
  }
  const iovec* data() const { return parts_.data(); }
  int count() const { return count_; }

 private:
  std::array<iovec, kCallParts> parts_;
  int count_ = 0;
  std::byte* end_ = nullptr;
};

// What is left of the items after `done` bytes.
Parts parts_from(std::span<IOItem> items, int64_t stride, int64_t done) {
  Parts parts;
  int64_t skipped = done % stride;
  for (const IOItem& item : items.subspan(static_cast<size_t>(done / stride))) {
    parts.add(item.data + skipped, stride - skipped);
    skipped = 0;
  }
  return parts;
}

ssize_t call(const IOBatch& batch, const Parts& parts, int64_t offset, IOFault* fault) {
  const auto some = batch.direction == Direction::read ? &read_some : &write_some;
  return some(batch.fd, parts.data(), parts.count(), offset, fault);
}

// Moves items from the front until all are done or one fails; returns how many are settled, a failed one being the
// last. Direct I/O goes on at page borders only, so a page that was moved in part is moved again.
size_t move_front(const IOBatch& batch, std::span<IOItem> items, IOFault* fault) {
  const int64_t stride = batch.stride();
  const int64_t total = stride * static_cast<int64_t>(items.size());
  int64_t done = 0;
  for (int stalls = 0; done < total;) {
    const ssize_t moved = call(batch, parts_from(items, stride, done), items[0].offset + done, fault);
    const int64_t progress = moved <= 0 ? 0 : done + moved == total ? moved : moved / kPageBytes * kPageBytes;
    done += progress;
    stalls = progress == 0 ? stalls + 1 : 0;
    const bool failed = moved < 0 && moved != -EINTR;
    if (!failed && stalls < kMaxStalls) continue;
    const auto culprit = static_cast<size_t>(done / stride);
    items[culprit].error = moved < 0 ? static_cast<int32_t>(-moved) : kShortTransfer;
    return culprit + 1;
  }
  return items.size();
}

void move_all(const IOBatch& batch, std::span<IOItem> items, IOFault* fault) {
  while (!items.empty()) items = items.subspan(move_front(batch, items, fault));
}

void move_through(std::byte* buffer, const IOBatch& batch, IOItem& item, IOFault* fault) {
  const auto num_bytes = static_cast<size_t>(batch.slot_bytes);
  IOItem copy = item;
  copy.data = buffer;
  if (batch.direction == Direction::write) {
    std::memcpy(buffer, item.data, num_bytes);
    std::memset(buffer + num_bytes, 0, static_cast<size_t>(batch.stride()) - num_bytes);
  }
  move_all(batch, {&copy, 1}, fault);
  if (batch.direction == Direction::read && copy.error == 0) std::memcpy(item.data, buffer, num_bytes);
  item.error = copy.error;
}

Checksum checksum_of(const IOBatch& batch, const IOItem& item) {
  return checksum(item.data, static_cast<size_t>(batch.slot_bytes));
}

void leave_page_cache(const IOBatch& batch, std::span<IOItem> items) {
  const int64_t num_bytes = batch.stride() * static_cast<int64_t>(items.size());
  const int error = batch.direction == Direction::write ? -write_back(batch.fd, items[0].offset, num_bytes) : 0;
  for (IOItem& item : items)
    if (item.error == 0) item.error = error;
  drop_from_page_cache(batch.fd, items[0].offset, num_bytes);
}

}  // namespace

std::byte* BounceBuffer::of_size(int64_t num_bytes) {
  if (num_bytes > num_bytes_) {
    memory_ = allocate_huge(static_cast<size_t>(num_bytes));
    num_bytes_ = num_bytes;
  }
  return memory_.get();
}

void transfer(const IOBatch& batch, std::span<IOItem> items, BounceBuffer& bounce, IOFault* fault) {
  if (batch.direction == Direction::write)
    for (IOItem& item : items) item.checksum = checksum_of(batch, item);
  if (batch.needs_bounce) {
    for (IOItem& item : items) move_through(bounce.of_size(batch.stride()), batch, item, fault);
  } else {
    move_all(batch, items, fault);
  }
  if (!batch.is_direct) leave_page_cache(batch, items);
  if (batch.direction == Direction::read)
    for (IOItem& item : items)
      if (item.error == 0 && checksum_of(batch, item) != item.checksum) item.error = kChecksumMismatch;
}

}  // namespace transom
