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
    allocate_arena,
    attend,
    best_isa,
    checksum,
    dequantize,
    embed,
    matmul,
    measure_read_bandwidth,
    num_threads,
    punch_hole,
    quantize,
    rms_norm,
    rotate,
    row_bytes,
    set_active_isa,
    set_num_threads,
    store_kv,
    swiglu,
)

__all__ = [
    "CHECKSUM_MISMATCH",
    "SHORT_TRANSFER",
    "AttentionState",
    "IOFault",
    "IOQueue",
    "IOResult",
    "KVLayout",
    "PackedMatrix",
    "active_isa",
    "allocate_arena",
    "attend",
    "best_isa",
    "checksum",
    "dequantize",
    "embed",
    "matmul",
    "measure_read_bandwidth",
    "num_threads",
    "punch_hole",
    "quantize",
    "rms_norm",
    "rotate",
    "row_bytes",
    "set_active_isa",
    "set_num_threads",
    "store_kv",
    "swiglu",
]
