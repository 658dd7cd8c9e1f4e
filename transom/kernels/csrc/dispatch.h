// From the instruction set in use to the code compiled for it, and from small work to a single thread.
#pragma once

#include <functional>

#include "isa.h"
#include "thread_pool.h"

// A kernel family declares its table once per instruction set, each in that set's namespace, and picks one per call.
#if defined(__x86_64__)
#define TRANSOM_DECLARE_PER_ISA(type, name) \
  namespace portable {                      \
  extern const type name;                   \
  }                                         \
  namespace avx2 {                          \
  extern const type name;                   \
  }                                         \
  namespace avx512 {                        \
  extern const type name;                   \
  }
#define TRANSOM_PICK(name) \
  (active_isa() >= Isa::avx512 ? avx512::name : active_isa() == Isa::avx2 ? avx2::name : portable::name)
// For families with a build of their own for AVX-512 VNNI; the others use their AVX-512 build there.
#define TRANSOM_DECLARE_PER_INTEGER_ISA(type, name) \
  TRANSOM_DECLARE_PER_ISA(type, name)               \
  namespace avx512vnni {                            \
  extern const type name;                           \
  }
#define TRANSOM_PICK_INTEGER(name) (active_isa() == Isa::avx512vnni ? avx512vnni::name : TRANSOM_PICK(name))
#else
#define TRANSOM_DECLARE_PER_INTEGER_ISA(type, name) TRANSOM_DECLARE_PER_ISA(type, name)
#define TRANSOM_PICK_INTEGER(name) TRANSOM_PICK(name)
#define TRANSOM_DECLARE_PER_ISA(type, name) \
  namespace portable {                      \
  extern const type name;                   \
  }
#define TRANSOM_PICK(name) (portable::name)
#endif

namespace transom {

// Multiply-adds (or as much other work) below which waking the pool costs more than it saves.
constexpr int64_t kWorthSharing = 1 << 17;

// parallel_for when the work is worth it, else a plain loop. Results do not depend on which.
template <class Task>
void share_out(int64_t count, int64_t work, const Task& task) {
  if (work < kWorthSharing) {
    for (int64_t index = 0; index < count; ++index) task(index);
  } else {
    parallel_for(count, std::cref(task));
  }
}

}  // namespace transom
