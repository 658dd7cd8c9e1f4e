// Native threads that move slots between a file and an arena in RAM, checksums included. Knows bytes, no keys or
// values.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "checksum.h"
#include "io_queue_calls.h"
#include "memory.h"

namespace transom {

enum class Direction { read, write };

// Results of an item beside 0 (done) and errno (> 0).
constexpr int32_t kChecksumMismatch = -1;
constexpr int32_t kShortTransfer = -2;  // the file ended, or a call made no progress any more

// Files are read and written in whole pages, as direct I/O demands.
constexpr int64_t kPageBytes = 4096;

struct IOItem {
  int64_t offset;     // in the file, a multiple of kPageBytes
  std::byte* data;    // slot_bytes in the arena
  Checksum checksum;  // expected (read) or computed (write)
  int32_t error = 0;
  int32_t index = 0;  // as submitted
};

// What one ticket stands for: items of one file and one direction. Workers fill in the results.
struct IOBatch {
  using Clock = std::chrono::steady_clock;

  Direction direction;
  int fd;
  bool is_direct;     // else what was touched is dropped from the page cache
  bool needs_bounce;  // the arena's slots are not whole aligned pages: each goes through a thread's own buffer
  int64_t slot_bytes;
  std::vector<IOItem> items;  // by offset

  int64_t num_open_runs = 0;
  std::optional<Clock::time_point> begin;
  Clock::time_point end;

  // Room of an item in the file; the rest of its last page is zeros.
  int64_t stride() const { return (slot_bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }
  int64_t num_bytes_moved() const;
  double seconds() const;  // from the first call's start to the last one's end
};

// Safe to use by any threads. Reads go first; a thread is kept free for them where there is more than one.
class IOQueue {
 public:
  // `fault` may be null. Throws std::system_error when threads cannot be had.
  IOQueue(int num_threads, std::shared_ptr<IOFault> fault);
  ~IOQueue();
  IOQueue(const IOQueue&) = delete;
  IOQueue& operator=(const IOQueue&) = delete;

  // Returns the ticket. The items' memory must stay alive until the batch was waited for. Waits while too much is
  // pending; throws std::runtime_error once closed.
  int64_t submit(std::unique_ptr<IOBatch> batch);
  // The finished batch, whose ticket ends with that, or null after the time-out. Throws std::invalid_argument for a
  // ticket that is not open.
  std::shared_ptr<IOBatch> wait(int64_t ticket, std::chrono::duration<double> timeout);
  // Items that have not begun end with ECANCELED; waits for those that have. Idempotent.
  void close();

 private:
  // Consecutive items, adjacent in the file: the work of one thread at a time.
  struct Run {
    std::shared_ptr<IOBatch> batch;
    size_t begin;
    size_t end;
    std::span<IOItem> items() const { return std::span(batch->items).subspan(begin, end - begin); }
  };

  static std::vector<Run> runs_of(const std::shared_ptr<IOBatch>& batch);
  void work();
  std::optional<Run> next_run();
  void finish(const Run& run);

  const std::shared_ptr<IOFault> fault_;
  std::mutex mutex_;  // guards everything below but the threads, and the items' results
  std::condition_variable work_;
  std::condition_variable progress_;  // a batch finished, or room for submissions
  std::deque<Run> reads_;
  std::deque<Run> writes_;
  std::unordered_map<int64_t, std::shared_ptr<IOBatch>> open_;
  int64_t last_ticket_ = 0;
  size_t num_pending_items_ = 0;
  size_t num_writing_ = 0;
  size_t max_writing_;
  bool closing_ = false;
  std::mutex joining_;
  std::vector<std::thread> threads_;
};

}  // namespace transom
