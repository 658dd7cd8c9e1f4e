// The system calls of the cold tier, one each, and the seam through which tests make the n-th of them fail.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <cstdint>

namespace transom {

enum class FaultKind { error, short_transfer, corrupt };

// Makes the nth call counted here fail, or every one from the nth on. For tests; the running program has none.
class IOFault {
 public:
  // nth >= 1; error_number matters for FaultKind::error only.
  IOFault(int64_t nth, FaultKind kind, int error_number, bool persistent)
      : nth_(nth), kind_(kind), error_number_(error_number), persistent_(persistent) {}

  // Counts one call; whether it is to fail.
  bool strikes();
  FaultKind kind() const { return kind_; }
  int error_number() const { return error_number_; }
  int64_t num_calls() const { return num_calls_.load(std::memory_order_relaxed); }

 private:
  const int64_t nth_;
  const FaultKind kind_;
  const int error_number_;
  const bool persistent_;
  std::atomic<int64_t> num_calls_{0};
};

// Each is one system call and returns what it returned, or -errno. `fault` may be null.
ssize_t read_some(int fd, const iovec* parts, int num_parts, int64_t offset, IOFault* fault);
ssize_t write_some(int fd, const iovec* parts, int num_parts, int64_t offset, IOFault* fault);
// Gives the bytes back to the file system; they read as zeros afterwards. 0 or -errno.
int punch_hole(int fd, int64_t offset, int64_t num_bytes, IOFault* fault);

// After I/O through the page cache: what was written goes to the disk (0 or -errno), then the range leaves the cache.
int write_back(int fd, int64_t offset, int64_t num_bytes);
void drop_from_page_cache(int fd, int64_t offset, int64_t num_bytes);

}  // namespace transom
