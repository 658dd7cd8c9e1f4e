// Run-time choice of the instruction set. Every kernel family exposes one table of functions per instruction set; the
// bindings pick the table once per call by `active_isa()`.
#pragma once

namespace transom {

enum class Isa { portable = 0, avx2 = 1, avx512 = 2, avx512vnni = 3 };

Isa best_isa();    // what this processor (and operating system) can run and this build contains
Isa active_isa();  // what kernels use; best_isa() unless set
// Throws std::invalid_argument when the processor cannot run it. Not to be called while kernels run.
void set_active_isa(Isa isa);

}  // namespace transom
