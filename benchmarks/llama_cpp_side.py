"""llama.cpp as one side of a comparison, through the C interface that `llama-cpp-python` exposes.

    python -m benchmarks.llama_cpp_side FILE --threads 2

Runs in the environment that has `llama_cpp`; see `benchmarks.llama_cpp_environment`. A context of N tokens is computed
for its first `COMPUTED_TOKENS` and copied for the rest: the KV of the computed ones is restored again and again, and
its positions are shifted (by llama.cpp itself, which rotates the keys on). Speed does not depend on values.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import llama_cpp
import numpy as np
import numpy.typing as npt

from benchmarks.side_process import Question, Setting, answer

COMPUTED_TOKENS = 512
SPARE_TOKENS = COMPUTED_TOKENS + 128  # a copy before it is cut to size; a step to warm up
ANY_TOKEN = 7
DEFAULT_BATCH = 2048


@dataclass(frozen=True, slots=True)
class Row:
    """One token to compute."""

    token: int
    position: int
    sequence: int
    wants_logits: bool


class Context:
    """A context of llama.cpp: KV of some sequences, each of `num_tokens` tokens after `fill`."""

    def __init__(self, model: ctypes.c_void_p, setting: Setting, size: int, num_sequences: int, threads: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = size
        params.n_batch = max(DEFAULT_BATCH, setting.micro_batch)
        params.n_ubatch = setting.micro_batch
        params.n_seq_max = num_sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(setting.flash_attention)
        params.kv_unified = setting.is_unified
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise SystemExit("llama.cpp made no context")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        self.num_tokens = 0

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)

    def compute(self, rows: Sequence[Row]) -> None:
        """One call of llama_decode; it cuts the rows into micro-batches itself."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, row in enumerate(rows):
            batch.token[index] = row.token
            batch.pos[index] = row.position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row.sequence
            batch.logits[index] = row.wants_logits
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise SystemExit(f"llama_decode returned {status}")

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """[V] of a row of the last `compute` that wanted them; valid until the next one."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, row), (self._vocab_size,))

    def prompt(self, sequence: int, start: int, tokens: Sequence[int]) -> None:
        """Computes tokens of one sequence; the last one's logits are row -1."""
        last = len(tokens) - 1
        self.compute([Row(token, start + i, sequence, i == last) for i, token in enumerate(tokens)])

    def fill_by_copying(self, num_tokens: int) -> None:
        """Sequence 0 gets `num_tokens` tokens. Sequence 1 is where a copy is restored and moved to its place."""
        computed = min(num_tokens, COMPUTED_TOKENS)
        self.prompt(0, 0, some_tokens(computed))
        state = self._state_of(0)
        for start in range(computed, num_tokens, computed):
            self._restore(state, 1)
            self.forget_from(1, min(computed, num_tokens - start))
            llama_cpp.llama_memory_seq_add(self._memory, 1, 0, -1, start)
            llama_cpp.llama_memory_seq_cp(self._memory, 1, 0, -1, -1)
            self.forget_from(1, 0)
        self._note_filled(0, num_tokens)

    def fill_all(self, num_sequences: int, num_tokens: int) -> None:
        """Every sequence gets its own copy of the same tokens."""
        self.prompt(0, 0, some_tokens(num_tokens))
        state = self._state_of(0)
        for sequence in range(1, num_sequences):
            self._restore(state, sequence)
        self._note_filled(num_sequences - 1, num_tokens)

    def forget_from(self, sequence: int, position: int) -> None:
        """Gives up the KV of all later positions."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def _state_of(self, sequence: int) -> ctypes.Array[ctypes.c_uint8]:
        size = llama_cpp.llama_state_seq_get_size(self._context, sequence)
        state: ctypes.Array[ctypes.c_uint8] = (ctypes.c_uint8 * size)()
        if llama_cpp.llama_state_seq_get_data(self._context, state, size, sequence) != size:
            raise SystemExit("llama.cpp did not hand out the state of a sequence")
        return state

    def _restore(self, state: ctypes.Array[ctypes.c_uint8], sequence: int) -> None:
        if not llama_cpp.llama_state_seq_set_data(self._context, state, len(state), sequence):
            raise SystemExit("llama.cpp did not restore the state of a sequence")

    def _note_filled(self, sequence: int, num_tokens: int) -> None:
        last = llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)
        if last != num_tokens - 1:
            raise SystemExit(f"a context of {num_tokens} tokens ends at position {last}")
        self.num_tokens = num_tokens


class LlamaCppSide:
    """A loaded model and the context of the last question, which the next one may use again."""

    def __init__(self, path: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p())
        self._threads = threads
        started = time.perf_counter()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        if not params.use_extra_bufts:
            raise SystemExit("llama.cpp would not repack its weights")
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._context: Context | None = None
        self._wanted: tuple[object, ...] = ()
        self._open(Setting(), DEFAULT_BATCH, 1)
        self.load_seconds = time.perf_counter() - started

    def describe(self) -> str:
        system = " ".join(llama_cpp.llama_print_system_info().decode().split())
        return f"llama-cpp-python {llama_cpp.__version__}: {system}"

    def prefill(self, question: Question) -> float:
        context = self._filled(question)
        tokens = some_tokens(question.count)
        started = time.perf_counter()
        context.prompt(0, question.context, tokens)
        int(context.logits(-1).argmax())
        seconds = time.perf_counter() - started
        context.forget_from(0, question.context)
        return seconds

    def decode(self, question: Question) -> float:
        context = self._filled(question)
        sequences = range(question.num_sequences)
        tokens = [ANY_TOKEN] * question.num_sequences
        seconds = []
        for step in range(1 + question.count):
            started = time.perf_counter()
            context.compute([Row(tokens[s], question.context + step, s, True) for s in sequences])
            tokens = [int(context.logits(s).argmax()) for s in sequences]
            seconds.append(time.perf_counter() - started)
        for sequence in sequences:
            context.forget_from(sequence, question.context)
        return statistics.median(seconds[1:])

    def logits(self, token_ids: Sequence[int], path: str) -> None:
        context = self._open(Setting(flash_attention=False), len(token_ids) + SPARE_TOKENS, 1)
        context.compute([Row(token, i, 0, True) for i, token in enumerate(token_ids)])
        np.save(path, np.stack([context.logits(i) for i in range(len(token_ids))]))
        context.forget_from(0, 0)

    def _filled(self, question: Question) -> Context:
        """A context with KV as the question wants it, from the last question if that wanted the same."""
        num_sequences = max(2, question.num_sequences)  # the second one is where copies are restored
        size = question.num_sequences * (question.context + question.count + SPARE_TOKENS)
        context = self._open(question.setting, size, num_sequences)
        if question.context and context.num_tokens != question.context:
            if question.num_sequences == 1:
                context.fill_by_copying(question.context)
            else:
                context.fill_all(question.num_sequences, question.context)
        return context

    def _open(self, setting: Setting, size: int, num_sequences: int) -> Context:
        wanted = (setting, size, num_sequences)
        if self._context is None or self._wanted != wanted:
            if self._context is not None:
                self._context.close()
            self._context = Context(self._model, setting, size, num_sequences, self._threads)
            self._wanted = wanted
        return self._context


def some_tokens(count: int) -> list[int]:
    """Any tokens, the same ones on both sides."""
    return (np.arange(count) * 37 % 500).tolist()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    answer(LlamaCppSide(options.file, options.threads))


if __name__ == "__main__":
    main()
