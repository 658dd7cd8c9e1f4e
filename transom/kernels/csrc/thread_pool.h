// One persistent pool of native threads. Work is shared out by index; which thread takes an index never changes a
// result.
#pragma once

#include <cstdint>
#include <functional>

namespace transom {

// Threads that compute, the calling one included. Blocks until running work is done. 1 <= count <= 1024.
void set_num_threads(int count);
int num_threads();

// Calls task(index) for every index in [0, count), on all threads; returns when all are done. One call at a time:
// a second caller waits. Tasks must not throw and must not call parallel_for. The caller must not hold the GIL.
void parallel_for(int64_t count, const std::function<void(int64_t)>& task);

}  // namespace transom
