#include "io_queue.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <stdexcept>

#include "io_queue_transfer.h"

namespace transom {
namespace {

// More pending items than this make submit() wait: bounds the memory of the queue itself.
constexpr size_t kMaxPendingItems = size_t{1} << 16;

// Signals are for the threads of the interpreter; threads started meanwhile inherit the mask.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

void set_errors(std::span<IOItem> items, int32_t error) {
  for (IOItem& item : items) item.error = error;
}

size_t max_run_items(const IOBatch& batch) {
  if (batch.needs_bounce) return 1;
  return static_cast<size_t>(std::max<int64_t>(1, kCallBytes / batch.stride()));
}

}  // namespace

int64_t IOBatch::num_bytes_moved() const {
  return slot_bytes * std::count_if(items.begin(), items.end(), [](const IOItem& item) { return item.error == 0; });
}

double IOBatch::seconds() const { return begin ? std::chrono::duration<double>(end - *begin).count() : 0.0; }

IOQueue::IOQueue(int num_threads, std::shared_ptr<IOFault> fault)
    : fault_(std::move(fault)), max_writing_(static_cast<size_t>(std::max(1, num_threads - 1))) {
  const SignalsBlocked blocked;
  try {
    for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {
    close();
    throw;
  }
}

IOQueue::~IOQueue() { close(); }

int64_t IOQueue::submit(std::unique_ptr<IOBatch> submitted) {
  std::shared_ptr<IOBatch> batch = std::move(submitted);
  std::sort(batch->items.begin(), batch->items.end(),
            [](const IOItem& a, const IOItem& b) { return a.offset < b.offset; });
  const std::vector<Run> runs = runs_of(batch);
  const size_t num_items = batch->items.size();
  std::unique_lock lock(mutex_);
  progress_.wait(
      lock, [&] { return closing_ || num_pending_items_ == 0 || num_pending_items_ + num_items <= kMaxPendingItems; });
  if (closing_) throw std::runtime_error("the I/O queue is closed");
  batch->num_open_runs = static_cast<int64_t>(runs.size());
  num_pending_items_ += num_items;
  std::deque<Run>& queue = batch->direction == Direction::read ? reads_ : writes_;
  queue.insert(queue.end(), runs.begin(), runs.end());
  open_.emplace(++last_ticket_, std::move(batch));
  work_.notify_all();
  return last_ticket_;
}

std::shared_ptr<IOBatch> IOQueue::wait(int64_t ticket, std::chrono::duration<double> timeout) {
  // Beyond any deadline that makes sense, the clock's own arithmetic would overflow.
  const auto deadline = IOBatch::Clock::now() + std::chrono::duration_cast<IOBatch::Clock::duration>(
                                                    std::min(timeout, std::chrono::duration<double>(1e8)));
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto entry = open_.find(ticket);
    if (entry == open_.end()) throw std::invalid_argument("no open ticket has this number");
    if (entry->second->num_open_runs == 0) {
      std::shared_ptr<IOBatch> batch = std::move(entry->second);
      open_.erase(entry);
      return batch;
    }
    if (IOBatch::Clock::now() >= deadline) return nullptr;
    progress_.wait_until(lock, deadline);
  }
}

void IOQueue::close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    for (std::deque<Run>* queue : {&reads_, &writes_}) {
      for (const Run& run : *queue) {
        set_errors(run.items(), ECANCELED);
        finish(run);
      }
      queue->clear();
    }
  }
  work_.notify_all();
  progress_.notify_all();
  std::lock_guard lock(joining_);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

std::vector<IOQueue::Run> IOQueue::runs_of(const std::shared_ptr<IOBatch>& batch) {
  const std::vector<IOItem>& items = batch->items;
  const size_t max_items = max_run_items(*batch);
  std::vector<Run> runs;
  for (size_t begin = 0; begin < items.size(); begin = runs.back().end) {
    size_t end = begin + 1;
    while (end < items.size() && end - begin < max_items &&
           items[end].offset - items[end - 1].offset == batch->stride())
      ++end;
    runs.push_back({batch, begin, end});
  }
  return runs;
}

void IOQueue::work() {
  BounceBuffer bounce;
  std::unique_lock lock(mutex_);
  for (;;) {
    std::optional<Run> run;
    work_.wait(lock, [&] { return closing_ || (run = next_run()).has_value(); });
    if (!run) return;
    if (!run->batch->begin) run->batch->begin = IOBatch::Clock::now();
    lock.unlock();
    try {
      transfer(*run->batch, run->items(), bounce, fault_.get());
    } catch (const std::bad_alloc&) {
      set_errors(run->items(), ENOMEM);
    }
    lock.lock();
    if (run->batch->direction == Direction::write) --num_writing_;
    finish(*run);
  }
}

std::optional<IOQueue::Run> IOQueue::next_run() {
  const bool may_write = !writes_.empty() && num_writing_ < max_writing_;
  if (reads_.empty() && !may_write) return std::nullopt;
  std::deque<Run>& queue = reads_.empty() ? writes_ : reads_;
  Run run = std::move(queue.front());
  queue.pop_front();
  if (run.batch->direction == Direction::write) ++num_writing_;
  return run;
}

void IOQueue::finish(const Run& run) {
  IOBatch& batch = *run.batch;
  num_pending_items_ -= run.items().size();
  if (!writes_.empty()) work_.notify_one();  // one more thread may write now
  if (--batch.num_open_runs != 0) return;
  batch.end = IOBatch::Clock::now();
  progress_.notify_all();
}

}  // namespace transom
