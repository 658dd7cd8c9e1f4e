"""The only door to native code: matrix products, norms, rotary embedding, SwiGLU, attention, quantisation, memory,
threads, cold I/O.

Arrays are float32 and C-contiguous unless said otherwise. Every call blocks until done, releases the GIL, uses all
threads of one native pool, and raises `TypeError` for a wrong dtype and `ValueError` for a wrong shape or layout.
Results are the same bits whatever the number of rows, the threads or the instruction set. `transom.kernels.reference`
says in NumPy what is computed. Knows no models, no layers.
"""

from transom.kernels._native import (
    CHECKSUM_MISMATCH,
    SHORT_TRANSFER,
    AttentionState,
    IOFault,
    IOQueue,
    IOResult,
    KVLayout,
    PackedMatrix,
    active_isa,
    add_rms_norm,
    allocate_arena,
    attend,
    best_isa,
    checksum,
    dequantize,
    embed,
    geglu,
    matmul,
    measure_read_bandwidth,
    num_threads,
    punch_hole,
    quantize,
    rms_norm,
    rms_norm_heads,
    rotate,
    row_bytes,
    set_active_isa,
    set_num_threads,
    short_conv,
    soft_cap,
    softmax,
    store_kv,
    swiglu,
)

__all__ = [
    "ARITHMETIC_VERSION",
    "CHECKSUM_MISMATCH",
    "SHORT_TRANSFER",
    "AttentionState",
    "IOFault",
    "IOQueue",
    "IOResult",
    "KVLayout",
    "PackedMatrix",
    "active_isa",
    "add_rms_norm",
    "allocate_arena",
    "attend",
    "best_isa",
    "checksum",
    "dequantize",
    "embed",
    "geglu",
    "matmul",
    "measure_read_bandwidth",
    "num_threads",
    "punch_hole",
    "quantize",
    "rms_norm",
    "rms_norm_heads",
    "rotate",
    "row_bytes",
    "set_active_isa",
    "set_num_threads",
    "short_conv",
    "soft_cap",
    "softmax",
    "store_kv",
    "swiglu",
]

ARITHMETIC_VERSION = 1
"""To be raised by whoever changes a bit of what any kernel computes: what was computed before is not reused then."""
