"""Types of the native module. `transom.kernels` re-exports it and says what holds for all calls."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Isa = Literal["portable", "avx2", "avx512", "avx512vnni"]
QuantizedDtype = Literal[
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"
]
WeightDtype = Literal["f32", "f16", "bf16"] | QuantizedDtype
KVDtype = Literal["f32", "f16", "q8_0"]
QuantizableDtype = Literal["q8_0", "q4_0", "q4_k", "q5_k", "q6_k"]
FaultKind = Literal["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EINTR", "short", "corrupt"]

class PackedMatrix:
    """Weights [out_features, in_features] in panels of 16 rows, in huge-page memory, zero-filled.

    Quantised dtypes are those of ggml, kept at the bits they have in a file. Raises ValueError for an unknown dtype, a
    size below 1, or in_features that are not whole blocks (of 32; of 256 for q2_k to q6_k and iq4_xs); MemoryError.
    """

    def __init__(self, out_features: int, in_features: int, dtype: WeightDtype) -> None: ...
    def fill(
        self, row: int, weight: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16] | NDArray[np.uint8]
    ) -> None:
        """Packs weight[n, in_features] as rows row .. row + n.

        float32 for "f32", float16 for "f16", uint16 for "bf16"; for a quantised dtype uint8 [n, row_bytes], ggml's
        blocks as they lie in a GGUF file. The array may be read-only and unaligned. Not while another thread computes
        with this matrix.
        """

    @property
    def out_features(self) -> int: ...
    @property
    def in_features(self) -> int: ...
    @property
    def dtype(self) -> WeightDtype: ...
    @property
    def nbytes(self) -> int:
        """Bytes of memory, the padding of the last panel included."""

def matmul(
    x: NDArray[np.float32],
    weight: PackedMatrix | Sequence[PackedMatrix],
    bias: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """x[M, K] @ weight[N, K].T + bias[N] -> [M, N], accumulated in float32.

    Several matrices of the same K, of any dtypes, give their outputs side by side, in one pass. For quantised weights
    x is quantised to 8 bits, per row and group of 256 (q2_k to q6_k, iq4_xs) or 32; a row with an infinity or NaN then
    gives NaN in all outputs, the other rows are not touched by it.
    """

def embed(weight: PackedMatrix, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Rows token_ids[T] of the matrix -> [T, K]. ValueError for an id outside the matrix."""

def row_bytes(dtype: WeightDtype, in_features: int) -> int:
    """Bytes of one row in a file. ValueError as for `PackedMatrix`."""

def packed_bytes(out_features: int, in_features: int, dtype: WeightDtype) -> int:
    """`PackedMatrix(...).nbytes`, without taking any memory. Raises as `PackedMatrix`."""

def dequantize(dtype: QuantizedDtype, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """ggml's blocks [n, row_bytes] -> [n, K], the same bits as ggml gives. The array may be unaligned.

    ValueError for a dtype that is not quantised, and for rows that are not whole blocks.
    """

def quantize(dtype: QuantizableDtype, weight: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows weight[n, K] as ggml's blocks, [n, bytes of a row]. A row's bytes do not depend on other rows.

    ValueError for an unknown type, for rows that are no multiple of its block, and for a row that holds NaN, infinity
    or a magnitude of 2^18 or more; it is named by its number.
    """

def rms_norm(x: NDArray[np.float32], weight: NDArray[np.float32], eps: float) -> NDArray[np.float32]:
    """x[T, H] / sqrt(mean(x ** 2) + eps) * weight[H] -> [T, H]."""

def add_rms_norm(
    x: NDArray[np.float32], update: NDArray[np.float32], weight: NDArray[np.float32], eps: float
) -> NDArray[np.float32]:
    """x[T, H] += update[T, H], in place, and the `rms_norm` of the sum -> [T, H]: a residual and the norm behind it."""

def rotate(x: NDArray[np.float32], cos: NDArray[np.float32], sin: NDArray[np.float32]) -> None:
    """Rotary embedding of x[T, heads, D], in place, by cos and sin [T, R / 2], R <= D.

    Elements i and i + R / 2 of a head are a pair (halves split, as Hugging Face's models have it). The stride of the
    first axis is free, so x may be a slice of the columns of a fused product.
    """

def swiglu(gate_up: NDArray[np.float32]) -> NDArray[np.float32]:
    """silu(gate_up[:, :I]) * gate_up[:, I:] -> [T, I]."""

def geglu(gate_up: NDArray[np.float32]) -> NDArray[np.float32]:
    """gelu(gate_up[:, :I]) * gate_up[:, I:] -> [T, I], with gelu approximated by tanh (Hendrycks and Gimpel, 2016)."""

def rms_norm_heads(x: NDArray[np.float32], weight: NDArray[np.float32], eps: float) -> None:
    """`rms_norm` of every head of x[T, heads, D] by weight[D], in place. The stride of the first axis is free."""

def soft_cap(x: NDArray[np.float32], cap: float) -> None:
    """x[T, H] becomes cap * tanh(x / cap), in place; `cap` is positive."""

def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """exp(x - max) / sum(exp(x - max)) over the rows of x[T, H] -> [T, H]."""

def short_conv(
    x: NDArray[np.float32],
    history: NDArray[np.float32],
    sequence_starts: NDArray[np.int32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Causal convolution of every channel of x[T, H] by itself with weight[taps, H], oldest tap first -> [T, H].

    Rows sequence_starts[s] .. sequence_starts[s + 1] of x belong to sequence s, and follow the rows
    history[s] of history[S, taps - 1, H].
    """

def allocate_arena(num_bytes: int) -> NDArray[np.uint8]:
    """Zeros [num_bytes], 4096-aligned, in huge pages where the system grants them. Raises MemoryError."""

class KVLayout:
    """How one layer's keys and values lie in a slot of 64 tokens.

    Per KV head: keys transposed [head_dim][64], then values [64][head_dim]. In q8_0 both are int8, and each is followed
    by f16 scales of groups of 32 channels (the last may be smaller): [groups][64] and [64][groups]. Raises ValueError
    for an unknown dtype or a size below 1.
    """

    def __init__(self, num_key_value_heads: int, head_dim: int, dtype: KVDtype) -> None: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def dtype(self) -> KVDtype: ...
    @property
    def slot_bytes(self) -> int: ...

def store_kv(
    arena: NDArray[np.uint8],
    layout: KVLayout,
    block_slots: NDArray[np.int32],
    sequence_starts: NDArray[np.int32],
    first_positions: NDArray[np.int32],
    key: NDArray[np.float32],
    value: NDArray[np.float32],
) -> None:
    """Writes key and value [T, num_key_value_heads, head_dim] to their places, rounded to the layout's dtype.

    Rows sequence_starts[s] .. sequence_starts[s + 1] are consecutive positions from first_positions[s]; position p lies
    in slot block_slots[s, p // 64], column p % 64. The stride of the rows is free. Sequences of one call must not share
    the blocks written to. ValueError, before anything is written, for a slot outside the arena.
    """

def attend(
    arena: NDArray[np.uint8],
    layout: KVLayout,
    block_slots: NDArray[np.int32],
    sequence_starts: NDArray[np.int32],
    first_positions: NDArray[np.int32],
    query: NDArray[np.float32],
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    visible: NDArray[np.int64] | None = None,
    allow_missing: bool = False,
) -> NDArray[np.float32]:
    """Causal attention of query [T, H, head_dim] over each row's sequence -> [T, H, head_dim].

    Rows and blocks as in `store_kv`, which comes first; the rows' stride is free, H is a multiple of
    num_key_value_heads, and consecutive query heads share a KV head. Scores are multiplied by scale, then become
    soft_cap * tanh(score / soft_cap).

    The row at position p sees the last `window` tokens, itself included. `visible` [S, 3] narrows this for each
    sequence: keep_first, window, window_blocks, 0 = no such limit. Then p sees what both windows leave, of that the
    last window_blocks blocks, its own included; and, whatever these say, positions below keep_first. Entries of blocks
    that no row sees may be anything. With `allow_missing` nobody sees the blocks whose entry is -1; those of the rows
    themselves must be there. ValueError for a slot outside the arena.
    """

class AttentionState:
    """`attend` in steps over ranges of splits, for when not all blocks are in the arena at once. Same bits.

    A split is 256 tokens from a multiple of 256. Holds its arrays, which must stay unchanged until the end. Not for use
    by two threads at once.
    """

    def __init__(
        self,
        layout: KVLayout,
        sequence_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        query: NDArray[np.float32],
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
        visible: NDArray[np.int64] | None = None,
        allow_missing: bool = False,
        measure_mass: bool = False,
    ) -> None: ...
    def attend_splits(
        self, arena: NDArray[np.uint8], block_slots: NDArray[np.int32], first_split: int, num_splits: int
    ) -> None:
        """Splits first_split .. first_split + num_splits of every sequence: each split once, in ascending order.

        Only the blocks of these splits need a slot in the table.
        """

    def finish(self) -> NDArray[np.float32]:
        """[T, H, head_dim], once every split was attended to. ValueError if none was."""

    def mass(self) -> NDArray[np.float32]:
        """Then, with measure_mass: [S, B], the share of attention that each sequence's last row gives to each block.

        The mean over heads; sums to 1 for a sequence, 0 for one without rows. B is the number of blocks of the longest
        sequence. ValueError if it was not measured or no split was attended to.
        """

def measure_read_bandwidth(num_bytes: int) -> float:
    """Bytes per second at which all threads read so much fresh huge-page memory once: the limit of decode.

    Takes that much memory for the time of the call; ValueError below 1 MiB, MemoryError.
    """

CHECKSUM_MISMATCH: int
"""In `IOResult.errors`: the bytes read are not those that were written."""
SHORT_TRANSFER: int
"""In `IOResult.errors`: the file ends inside the item."""

def checksum(array: NDArray[np.uint8]) -> tuple[int, int]:
    """128-bit checksum of array[n]: four CRC-32C side by side, two to a number, the lower lane in the lower half.

    Word i (8 bytes, little-endian) belongs to lane i mod 4; the last word is padded with zeros and the number of bytes
    follows as one more word of lane 0.
    """

def punch_hole(fd: int, offset: int, num_bytes: int, fault: IOFault | None = None) -> None:
    """Gives a range of a file back to the file system; it reads as zeros afterwards, the file's size stays.

    OSError where the file system refuses, or cannot do it at all.
    """

class IOFault:
    """For tests: the nth system call for cold bytes (read, write, punch; from 1) fails, or every one from the nth on.

    An errno: the call does nothing and fails. "short": half the bytes, in whole pages. "corrupt": one bit is flipped on
    the way, in memory (read) or in the file (write). ValueError for nth < 1 or an unknown kind.
    """

    def __init__(self, nth: int, kind: FaultKind, persistent: bool = False) -> None: ...
    @property
    def num_calls(self) -> int:
        """Calls so far. When it stays below nth, the fault has not struck."""

class IOResult:
    """What became of the items of one ticket."""

    @property
    def errors(self) -> NDArray[np.int32]:
        """Per item, in the order of submission: 0 = done, an errno, CHECKSUM_MISMATCH or SHORT_TRANSFER.

        An item with an error has undefined bytes, in the arena (read) or in the file (write). Each access makes a copy.
        """

    @property
    def ok(self) -> bool:
        """Whether every item is done."""

    @property
    def num_bytes(self) -> int:
        """slot_bytes of all items that are done."""

    @property
    def seconds(self) -> float:
        """From the start of the first system call to the end of the last; time in the queue does not count."""

class IOQueue:
    """Native threads that move slots between files and an arena. For any thread; nothing but `wait` waits for a disk.

    Reads go before writes. Items of a ticket that are adjacent in the file are moved together, up to 1 MiB per system
    call, wherever in the arena they belong. Short and interrupted calls are continued. A failing item fails alone. What
    went through the page cache (a file not opened with O_DIRECT) is written back and dropped from it at once.

    An item is slot_bytes of the arena, and that rounded up to 4096 in the file. Where the arena is not 4096-aligned or
    slot_bytes is not a multiple of 4096, each thread copies through a buffer of its own of that size.

    ValueError unless num_threads is in 1..64.
    """

    def __init__(self, num_threads: int, fault: IOFault | None = None) -> None: ...
    def submit_reads(
        self,
        fd: int,
        file_offsets: NDArray[np.int64],
        arena: NDArray[np.uint8],
        arena_slots: NDArray[np.int32],
        slot_bytes: int,
        checksums: NDArray[np.uint64],
    ) -> int:
        """Reads each file_offsets[n], a multiple of 4096, into slot arena_slots[n]; -> the ticket.

        checksums[n, 2], copied here, are those of the bytes expected. The queue keeps the arena alive; its slots belong
        to the queue until `wait` or `poll` has given the result. Returns at once, unless tens of thousands of items are
        pending. ValueError: an offset or a slot is out of range; OSError: a bad descriptor; RuntimeError: closed.
        """

    def submit_writes(
        self,
        fd: int,
        file_offsets: NDArray[np.int64],
        arena: NDArray[np.uint8],
        arena_slots: NDArray[np.int32],
        slot_bytes: int,
        checksums: NDArray[np.uint64],
    ) -> int:
        """The other way round. checksums[n, 2] are filled in by the `wait` or `poll` that gives the result.

        The slots must not change until then.
        """

    def wait(self, ticket: int, timeout_seconds: float | None = None) -> IOResult:
        """The result, as soon as the transfer is over; a ticket gives it once, ValueError after that.

        TimeoutError when it takes longer: the ticket stays open, and its slots the queue's.
        """

    def poll(self, ticket: int) -> IOResult | None:
        """The result if the transfer is over."""

    def close(self) -> None:
        """Items not begun end with ECANCELED; waits for the others, then for the threads. Idempotent.

        Tickets can still be waited for.
        """

def set_num_threads(count: int) -> None:
    """How many threads compute, the calling one included. Waits for running work. ValueError unless in 1..1024."""

def num_threads() -> int: ...
def active_isa() -> Isa:
    """The instruction set in use."""

def best_isa() -> Isa:
    """The best instruction set of this processor that the build contains; in use unless set otherwise."""

def set_active_isa(name: Isa) -> None:
    """For tests and benchmarks. Not while kernels run. ValueError for one this processor has not got."""
