#include <fcntl.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "arrays.h"
#include "checksum.h"
#include "io_queue.h"

namespace nb = nanobind;

namespace transom {
namespace {

[[noreturn]] void raise_os_error(int error_number) {
  errno = error_number;
  PyErr_SetFromErrno(PyExc_OSError);
  nb::raise_python_error();
}

// ---- IOFault

struct FaultName {
  const char* name;
  FaultKind kind;
  int error_number;
};

constexpr FaultName kFaultNames[] = {
    {"EIO", FaultKind::error, EIO},     {"ENOSPC", FaultKind::error, ENOSPC}, {"EDQUOT", FaultKind::error, EDQUOT},
    {"EFBIG", FaultKind::error, EFBIG}, {"EINTR", FaultKind::error, EINTR},   {"short", FaultKind::short_transfer, 0},
    {"corrupt", FaultKind::corrupt, 0},
};

std::shared_ptr<IOFault> make_fault(int64_t nth, const std::string& kind, bool persistent) {
  if (nth < 1) throw std::invalid_argument("calls are counted from 1");
  for (const FaultName& each : kFaultNames)
    if (kind == each.name) return std::make_shared<IOFault>(nth, each.kind, each.error_number, persistent);
  throw std::invalid_argument("unknown kind of fault '" + kind +
                              "'; known: EIO, ENOSPC, EDQUOT, EFBIG, EINTR, short, corrupt");
}

// ---- IOResult

struct IOResult {
  std::shared_ptr<IOBatch> batch;

  nb::ndarray<nb::numpy, int32_t, nb::ndim<1>> errors() const {
    auto values = std::make_unique<int32_t[]>(batch->items.size());
    for (const IOItem& item : batch->items) values[item.index] = item.error;
    int32_t* data = values.get();
    nb::capsule owner(values.release(), [](void* pointer) noexcept { delete[] static_cast<int32_t*>(pointer); });
    return {data, {batch->items.size()}, owner};
  }
  bool ok() const {
    return std::all_of(batch->items.begin(), batch->items.end(), [](const IOItem& item) { return item.error == 0; });
  }
};

// ---- IOQueue

// Python's side of the queue: keeps the arrays of open tickets alive. Its own state is guarded by the GIL.
class BoundQueue {
 public:
  BoundQueue(int num_threads, std::shared_ptr<IOFault> fault) : queue_(num_threads, std::move(fault)) {}

  int64_t submit(Direction direction, int fd, nb::handle file_offsets, nb::handle arena, nb::handle arena_slots,
                 int64_t slot_bytes, nb::handle checksums) {
    const bool reading = direction == Direction::read;
    Arrays arrays{
        std::make_unique<ArrayView>(arena, "arena", Dtype::u8, 1, reading ? Access::write : Access::read),
        std::make_unique<ArrayView>(checksums, "checksums", Dtype::u64, 2, reading ? Access::read : Access::write)};
    const ArrayView offsets(file_offsets, "file_offsets", Dtype::i64, 1);
    const ArrayView slots(arena_slots, "arena_slots", Dtype::i32, 1);
    slots.expect_size(0, offsets.size(0));
    arrays.checksums->expect_size(0, offsets.size(0));
    arrays.checksums->expect_size(1, 2);
    std::unique_ptr<IOBatch> batch = make_batch(direction, fd, slot_bytes, *arrays.arena);
    fill(*batch, offsets, slots, arrays);
    const int64_t ticket = submit_without_gil(std::move(batch));
    arrays_.emplace(ticket, std::move(arrays));
    return ticket;
  }

  std::optional<IOResult> wait(int64_t ticket, double timeout_seconds) {
    if (!(timeout_seconds >= 0)) throw std::invalid_argument("timeout_seconds must not be negative");
    std::shared_ptr<IOBatch> batch;
    {
      nb::gil_scoped_release release;
      batch = queue_.wait(ticket, std::chrono::duration<double>(timeout_seconds));
    }
    if (!batch) return std::nullopt;
    const auto entry = arrays_.extract(ticket);
    if (batch->direction == Direction::write) write_checksums(*batch, *entry.mapped().checksums);
    return IOResult{std::move(batch)};
  }

  void close() {
    nb::gil_scoped_release release;
    queue_.close();
  }

  // Threads never touch Python, so they can be joined whether or not the GIL is held.
  ~BoundQueue() { queue_.close(); }

 private:
  struct Arrays {
    std::unique_ptr<ArrayView> arena;
    std::unique_ptr<ArrayView> checksums;
  };

  static std::unique_ptr<IOBatch> make_batch(Direction direction, int fd, int64_t slot_bytes, const ArrayView& arena) {
    if (slot_bytes < 1 || slot_bytes > std::numeric_limits<int64_t>::max() / 2)
      throw std::invalid_argument("slot_bytes must be 1 or more");
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0) raise_os_error(errno);
    auto batch = std::make_unique<IOBatch>();
    batch->direction = direction;
    batch->fd = fd;
    batch->slot_bytes = slot_bytes;
    const bool is_aligned = reinterpret_cast<uintptr_t>(arena.data<std::byte>()) % kPageBytes == 0;
    batch->needs_bounce = !is_aligned || slot_bytes % kPageBytes != 0;
#if defined(O_DIRECT)
    batch->is_direct = (flags & O_DIRECT) != 0;
#else
    batch->is_direct = false;
#endif
    return batch;
  }

  static void fill(IOBatch& batch, const ArrayView& offsets, const ArrayView& slots, const Arrays& arrays) {
    const int64_t num_slots = arrays.arena->size(0) / batch.slot_bytes;
    auto* memory = const_cast<std::byte*>(arrays.arena->data<std::byte>());
    const auto* sums = arrays.checksums->data<uint64_t>();
    batch.items.reserve(static_cast<size_t>(offsets.size(0)));
    for (int64_t i = 0; i < offsets.size(0); ++i) {
      const int64_t offset = offsets.data<int64_t>()[i];
      const int32_t slot = slots.data<int32_t>()[i];
      if (offset < 0 || offset % kPageBytes != 0 || offset > std::numeric_limits<int64_t>::max() - batch.stride())
        throw std::invalid_argument("file_offsets must be multiples of 4096, not negative");
      if (slot < 0 || slot >= num_slots) throw std::invalid_argument("arena_slots names a slot outside the arena");
      batch.items.push_back({.offset = offset,
                             .data = memory + slot * batch.slot_bytes,
                             .checksum = {sums[2 * i], sums[2 * i + 1]},
                             .index = static_cast<int32_t>(i)});
    }
  }

  static void write_checksums(const IOBatch& batch, const ArrayView& checksums) {
    auto* sums = checksums.mutable_data<uint64_t>();
    for (const IOItem& item : batch.items) {
      sums[2 * item.index] = item.checksum.low;
      sums[2 * item.index + 1] = item.checksum.high;
    }
  }

  int64_t submit_without_gil(std::unique_ptr<IOBatch> batch) {
    nb::gil_scoped_release release;
    return queue_.submit(std::move(batch));
  }

  std::unordered_map<int64_t, Arrays> arrays_;
  IOQueue queue_;  // destroyed first: no thread touches an array after that
};

void construct_queue(BoundQueue* memory, int num_threads, std::shared_ptr<IOFault> fault) {
  if (num_threads < 1 || num_threads > 64) throw std::invalid_argument("number of threads must be in 1..64");
  new (memory) BoundQueue(num_threads, std::move(fault));
}

IOResult wait(BoundQueue& queue, int64_t ticket, std::optional<double> timeout_seconds) {
  constexpr double kForever = std::numeric_limits<double>::infinity();
  if (std::optional<IOResult> result = queue.wait(ticket, timeout_seconds.value_or(kForever))) return *result;
  PyErr_SetString(PyExc_TimeoutError, "the transfer is still going on");
  nb::raise_python_error();
}

// ---- the rest

nb::tuple checksum_of(nb::handle array) {
  const ArrayView view(array, "array", Dtype::u8, 1);
  Checksum sum;
  {
    nb::gil_scoped_release release;
    sum = checksum(view.data<std::byte>(), static_cast<size_t>(view.size(0)));
  }
  return nb::make_tuple(sum.low, sum.high);
}

void punch(int fd, int64_t offset, int64_t num_bytes, IOFault* fault) {
  int result = 0;
  {
    nb::gil_scoped_release release;
    for (int attempt = 0; attempt < 8; ++attempt)
      if ((result = punch_hole(fd, offset, num_bytes, fault)) != -EINTR) break;
  }
  if (result < 0) raise_os_error(-result);
}

template <Direction direction>
int64_t submit(BoundQueue& queue, int fd, nb::handle file_offsets, nb::handle arena, nb::handle arena_slots,
               int64_t slot_bytes, nb::handle checksums) {
  return queue.submit(direction, fd, file_offsets, arena, arena_slots, slot_bytes, checksums);
}

}  // namespace

void bind_io(nb::module_& module) {
  nb::class_<IOFault>(module, "IOFault")
      .def(nb::new_(&make_fault), nb::arg("nth"), nb::arg("kind"), nb::arg("persistent") = false)
      .def_prop_ro("num_calls", &IOFault::num_calls);
  nb::class_<IOResult>(module, "IOResult")
      .def_prop_ro("errors", &IOResult::errors, nb::rv_policy::move)
      .def_prop_ro("ok", &IOResult::ok)
      .def_prop_ro("num_bytes", [](const IOResult& result) { return result.batch->num_bytes_moved(); })
      .def_prop_ro("seconds", [](const IOResult& result) { return result.batch->seconds(); });
  nb::class_<BoundQueue>(module, "IOQueue")
      .def("__init__", &construct_queue, nb::arg("num_threads"), nb::arg("fault").none() = nb::none())
      .def("submit_reads", &submit<Direction::read>, nb::arg("fd"), nb::arg("file_offsets"), nb::arg("arena"),
           nb::arg("arena_slots"), nb::arg("slot_bytes"), nb::arg("checksums"))
      .def("submit_writes", &submit<Direction::write>, nb::arg("fd"), nb::arg("file_offsets"), nb::arg("arena"),
           nb::arg("arena_slots"), nb::arg("slot_bytes"), nb::arg("checksums"))
      .def("wait", &wait, nb::arg("ticket"), nb::arg("timeout_seconds") = nb::none())
      .def(
          "poll", [](BoundQueue& queue, int64_t ticket) { return queue.wait(ticket, 0); }, nb::arg("ticket"))
      .def("close", &BoundQueue::close);
  module.def("checksum", &checksum_of, nb::arg("array"));
  module.def("punch_hole", &punch, nb::arg("fd"), nb::arg("offset"), nb::arg("num_bytes"),
             nb::arg("fault").none() = nb::none());
  module.attr("CHECKSUM_MISMATCH") = kChecksumMismatch;
  module.attr("SHORT_TRANSFER") = kShortTransfer;
}

}  // namespace transom
