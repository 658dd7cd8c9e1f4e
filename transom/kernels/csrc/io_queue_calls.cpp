#include "io_queue_calls.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

namespace transom {
namespace {

constexpr int64_t kPage = 4096;

ssize_t or_error(ssize_t result) { return result < 0 ? -errno : result; }

int64_t total_bytes(const std::vector<iovec>& parts) {
  int64_t total = 0;
  for (const iovec& part : parts) total += static_cast<int64_t>(part.iov_len);
  return total;
}

// About half, in whole pages so that direct I/O can go on from there; a page or less stays whole.
std::vector<iovec> shortened(std::vector<iovec> parts) {
  int64_t rest = std::max(kPage, total_bytes(parts) / 2 / kPage * kPage);
  for (iovec& part : parts) {
    part.iov_len = std::min(part.iov_len, static_cast<size_t>(rest));
    rest -= static_cast<int64_t>(part.iov_len);
  }
  return parts;
}

void flip_a_bit(void* data) { *static_cast<unsigned char*>(data) ^= 0x10; }

// The file gets a flipped bit, the memory it came from stays as it is.
void spoil_file(int fd, const iovec& part, int64_t offset) {
  alignas(kPage) std::byte page[kPage];
  const size_t size = std::min(part.iov_len, sizeof(page));
  std::memcpy(page, part.iov_base, size);
  flip_a_bit(page);
  [[maybe_unused]] const ssize_t written = pwrite(fd, page, size, offset);
}

ssize_t read_with(IOFault& fault, int fd, const std::vector<iovec>& parts, int64_t offset) {
  if (fault.kind() == FaultKind::error) return -fault.error_number();
  const std::vector<iovec> wanted = fault.kind() == FaultKind::short_transfer ? shortened(parts) : parts;
  const ssize_t result = or_error(preadv(fd, wanted.data(), static_cast<int>(wanted.size()), offset));
  if (fault.kind() == FaultKind::corrupt && result > 0) flip_a_bit(wanted[0].iov_base);
  return result;
}

ssize_t write_with(IOFault& fault, int fd, const std::vector<iovec>& parts, int64_t offset) {
  if (fault.kind() == FaultKind::error) return -fault.error_number();
  const std::vector<iovec> wanted = fault.kind() == FaultKind::short_transfer ? shortened(parts) : parts;
  const ssize_t result = or_error(pwritev(fd, wanted.data(), static_cast<int>(wanted.size()), offset));
  if (fault.kind() == FaultKind::corrupt && result > 0) spoil_file(fd, wanted[0], offset);
  return result;
}

}  // namespace

bool IOFault::strikes() {
  const int64_t call = num_calls_.fetch_add(1, std::memory_order_relaxed) + 1;
  return persistent_ ? call >= nth_ : call == nth_;
}

ssize_t read_some(int fd, const iovec* parts, int num_parts, int64_t offset, IOFault* fault) {
  if (fault != nullptr && fault->strikes()) return read_with(*fault, fd, {parts, parts + num_parts}, offset);
  return or_error(preadv(fd, parts, num_parts, offset));
}

ssize_t write_some(int fd, const iovec* parts, int num_parts, int64_t offset, IOFault* fault) {
  if (fault != nullptr && fault->strikes()) return write_with(*fault, fd, {parts, parts + num_parts}, offset);
  return or_error(pwritev(fd, parts, num_parts, offset));
}

int punch_hole(int fd, int64_t offset, int64_t num_bytes, IOFault* fault) {
  if (fault != nullptr && fault->strikes() && fault->kind() == FaultKind::error) return -fault->error_number();
#if defined(FALLOC_FL_PUNCH_HOLE)
  return static_cast<int>(or_error(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, num_bytes)));
#else
  return -EOPNOTSUPP;
#endif
}

int write_back(int fd, int64_t offset, int64_t num_bytes) {
#if defined(SYNC_FILE_RANGE_WRITE)
  constexpr unsigned kWriteAndWait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  return static_cast<int>(or_error(sync_file_range(fd, offset, num_bytes, kWriteAndWait)));
#else
  return static_cast<int>(or_error(fsync(fd)));
#endif
}

void drop_from_page_cache(int fd, int64_t offset, int64_t num_bytes) {
#if defined(POSIX_FADV_DONTNEED)
  posix_fadvise(fd, offset, num_bytes, POSIX_FADV_DONTNEED);  // advice only: clean pages leave
#endif
}

}  // namespace transom
