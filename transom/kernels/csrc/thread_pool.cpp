#include "thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace transom {
namespace {

inline void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Workers spin for a short while before they sleep: a forward pass issues work every few microseconds.
constexpr int kSpins = 20000;

class Pool {
 public:
  explicit Pool(int count) {
    for (int i = 1; i < count; ++i) threads_.emplace_back([this] { work(); });
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  void run(int64_t count, const std::function<void(int64_t)>& task) {
    if (threads_.empty() || count == 1) {
      for (int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    task_ = &task;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
    {
      std::lock_guard lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_indices();
    for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins < kSpins) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  void take_indices() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*task_)(i);
  }

  void work() {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spins) {
        pause_briefly();
      }
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      ++seen;
      if (stopping_) return;
      take_indices();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  // Written before the generation is raised, read after it was seen.
  const std::function<void(int64_t)>* task_ = nullptr;
  int64_t count_ = 0;
  bool stopping_ = false;
};

std::mutex pool_mutex;  // guards `pool` and admits one parallel_for at a time
std::unique_ptr<Pool> pool;

Pool& current_pool() {
  if (!pool) pool = std::make_unique<Pool>(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  return *pool;
}

}  // namespace

void set_num_threads(int count) {
  std::lock_guard lock(pool_mutex);
  if (!pool || pool->size() != count) pool = std::make_unique<Pool>(count);
}

int num_threads() {
  std::lock_guard lock(pool_mutex);
  return current_pool().size();
}

void parallel_for(int64_t count, const std::function<void(int64_t)>& task) {
  if (count <= 0) return;
  std::lock_guard lock(pool_mutex);
  current_pool().run(count, task);
}

}  // namespace transom
