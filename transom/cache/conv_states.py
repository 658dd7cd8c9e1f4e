"""What short convolutions remember of each sequence: the last inputs of every convolution layer. Owns that memory.

A sequence has two copies: what later tokens will see, and what the forward pass under way makes of it. The pass may be
void, then the first still stands; a commit swaps them. A pass also notes the state at the last border between blocks
that it crosses, which whoever begins there needs. Owns no blocks: a state is small, and always in RAM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.cache.block import BLOCK_SIZE
from transom.cache.sequence_cache import SequenceCache
from transom.cache.stats import ConvStateStats
from transom.config.kv_size import conv_state_bytes
from transom.config.model_config import LayerKind, ModelConfig
from transom.errors import EngineError

Floats = NDArray[np.float32]

MAX_REWOUND_ROWS = 64
"""Of a pass with at most so many rows of a sequence a part may be committed."""


class ConvPass(Protocol):
    """The convolutions of one forward pass."""

    def convolve(self, layer_index: int, x: Floats, weight: Floats, bias: Floats | None, /) -> Floats:
        """As `LayerCache.convolve` of `transom.layers`."""
        ...


class ConvStates:
    """States of up to `max_num_seqs` sequences of one model; none of a model without convolutions. One thread."""

    def __init__(self, model_config: ModelConfig, max_num_seqs: int) -> None:
        kinds = model_config.layer_types
        layers = [index for index, kind in enumerate(kinds) if kind is LayerKind.SHORT_CONV]
        self._rows = {layer: row for row, layer in enumerate(layers)}
        num_inputs = 0 if model_config.short_conv is None else model_config.short_conv.conv_L_cache - 1
        num_sequences = max_num_seqs if layers else 0
        shape = (num_sequences, 2, len(layers), num_inputs, model_config.hidden_size)
        self._states: Floats = np.zeros(shape, np.float32)
        self._free = list(range(num_sequences))
        self._places: dict[SequenceCache, int] = {}
        self._current = [0] * num_sequences
        self._computed: dict[SequenceCache, int] = {}
        """Up to which position the pass under way has computed its other copy."""
        self._borders: dict[SequenceCache, tuple[int, Floats]] = {}
        self._pass: StatePass | None = None
        """The one under way."""
        assert self._states.nbytes == num_sequences * conv_state_bytes(model_config), "the arithmetic is wrong"

    @property
    def num_bytes(self) -> int:
        """All of it, used or not."""
        return self._states.nbytes

    def stats(self) -> ConvStateStats | None:
        """Who has states, and what they take; None of a model without convolutions."""
        if not self._rows:
            return None
        num_used, num_total = len(self._places), len(self._states)
        num_bytes_used = self._states.nbytes // num_total * num_used
        return ConvStateStats(len(self._rows), num_used, num_total, num_bytes_used, self._states.nbytes)

    def begin(self, parts: Sequence[tuple[SequenceCache, int, int]]) -> ConvPass:
        """The convolutions of one pass over (handle, start, num_tokens); passes before it that were not committed are
        void. Raises EngineError when more sequences than `max_num_seqs` are open."""
        if not self._rows:
            return NoConvPass()
        for handle, start, num_tokens in parts:
            self._place(handle)
            self._computed[handle] = start + num_tokens
        self._borders = {
            handle: (_last_border(start, num_tokens), np.empty(self._states.shape[2:], np.float32))
            for handle, start, num_tokens in parts
            if handle.chain is not None and _last_border(start, num_tokens) > start
        }
        places = [self._places[handle] for handle, _, _ in parts]
        self._pass = StatePass(
            self._states,
            self._rows,
            np.array(places),
            np.array([self._current[place] for place in places]),
            [num_tokens for _, _, num_tokens in parts],
            [
                (number, self._borders[handle][0] - start, self._borders[handle][1])
                for number, (handle, start, _) in enumerate(parts)
                if handle in self._borders
            ],
        )
        return self._pass

    def load(self, handle: SequenceCache, state: NDArray[np.uint8]) -> None:
        """A sequence begins with a state that another one noted, as the first bytes of `state`."""
        place = self._place(handle)
        own = self._states[place, self._current[place]]
        own[...] = state[: own.nbytes].view(np.float32).reshape(own.shape)

    def take_border(self, handle: SequenceCache) -> tuple[int, NDArray[np.uint8]] | None:
        """The position at which the last pass noted a state, and its bytes [any]; once. None: it crossed no border, or
        there are no convolutions."""
        position, state = self._borders.pop(handle, (0, None))
        return None if state is None else (position, state.reshape(-1).view(np.uint8))

    def commit(self, handle: SequenceCache, num_tokens: int) -> None:
        """The pass up to position `num_tokens` counts. Raises ValueError for a position that it did not reach, and for
        a part of one with more than MAX_REWOUND_ROWS rows of the sequence."""
        if handle not in self._places or num_tokens == handle.num_computed_tokens:
            return
        end, place = self._computed.pop(handle, 0), self._places[handle]
        if num_tokens != end and (
            num_tokens > end or self._pass is None or not self._pass.rewind(place, end - num_tokens)
        ):
            raise ValueError(f"cannot commit {num_tokens} tokens: the pass ended elsewhere")
        self._current[place] = 1 - self._current[place]

    def close(self, handle: SequenceCache) -> None:
        """Forgets a sequence."""
        self._computed.pop(handle, None)
        self._borders.pop(handle, None)
        place = self._places.pop(handle, None)
        if place is not None:
            self._free.append(place)

    def check_integrity(self, handles: Sequence[SequenceCache]) -> None:
        """Raises AssertionError when a state is leaked or owned twice."""
        assert set(self._places) <= set(handles), "a closed sequence has a state"
        assert sorted([*self._places.values(), *self._free]) == list(range(len(self._states))), "states are miscounted"

    def _place(self, handle: SequenceCache) -> int:
        if handle not in self._places:
            if not self._free:
                raise EngineError(f"more than {len(self._states)} sequences are computed at once")
            place = self._places[handle] = self._free.pop()
            self._states[place] = 0.0
        return self._places[handle]


class NoConvPass:
    """Of a model without convolutions."""

    def convolve(self, layer_index: int, *_operands: object) -> Floats:
        """Raises KeyError."""
        raise KeyError(layer_index)


class StatePass:
    """Valid for one forward pass."""

    def __init__(
        self,
        states: Floats,
        rows: dict[int, int],
        places: NDArray[np.intp],
        current: NDArray[np.intp],
        lengths: Sequence[int],
        borders: Sequence[tuple[int, int, Floats]],
    ) -> None:
        """`borders`: (number of a sequence, row of it, where the state before that row goes)."""
        self._states = states
        self._rows = rows
        self._places = places
        self._current = current
        self._starts = np.cumsum([0, *lengths], dtype=np.int32)
        num_inputs = states.shape[3]
        self._last = _inputs_before(np.arange(len(lengths)), np.array(lengths), self._starts, num_inputs)
        sequences, border_rows = (np.array([border[at] for border in borders], np.intp) for at in (0, 1))
        self._borders = [border[2] for border in borders]
        self._at_borders = _inputs_before(sequences, border_rows, self._starts, num_inputs)
        self._kept_rows = {
            place: np.concatenate([index * num_inputs + np.arange(num_inputs), self._own_rows(index)])
            for index, place in enumerate(places.tolist())
            if 1 < lengths[index] <= MAX_REWOUND_ROWS
        }
        self._kept: dict[int, list[tuple[int, Floats]]] = {place: [] for place in self._kept_rows}
        """History and inputs of each sequence that may be rewound: (row of a layer, [inputs, hidden_size])."""

    def convolve(self, layer_index: int, x: Floats, weight: Floats, bias: Floats | None) -> Floats:
        """Reads what each sequence remembers and writes what it will."""
        row = self._rows[layer_index]
        history = np.ascontiguousarray(self._states[self._places, self._current, row])
        mixed = kernels.short_conv(x, history, self._starts, weight, bias)
        inputs = np.concatenate([history.reshape(-1, x.shape[1]), x])
        self._states[self._places, 1 - self._current, row] = inputs[self._last]
        for border, places in zip(self._borders, self._at_borders, strict=True):
            border[row] = inputs[places]
        for place, rows in self._kept_rows.items():
            self._kept[place].append((row, inputs[rows]))
        return mixed

    def rewind(self, place: int, num_rows: int) -> bool:
        """What will be remembered of the sequence at `place` is what it was `num_rows` rows earlier; False if that is
        not known. At least one row must remain."""
        if place not in self._kept:
            return False
        other = 1 - self._current[self._places == place][0]
        for row, inputs in self._kept[place]:
            end = len(inputs) - num_rows
            self._states[place, other, row] = inputs[end - self._states.shape[3] : end]
        return True

    def _own_rows(self, index: int) -> NDArray[np.intp]:
        """Rows of a sequence's inputs in this pass, behind the histories of all."""
        num_before = len(self._places) * self._states.shape[3]
        return np.arange(num_before + self._starts[index], num_before + self._starts[index + 1])


def _last_border(start: int, num_tokens: int) -> int:
    """The last position up to the end of a pass where a block begins."""
    return (start + num_tokens) // BLOCK_SIZE * BLOCK_SIZE


def _inputs_before(
    sequences: NDArray[np.intp], rows: NDArray[np.intp], starts: NDArray[np.int32], num_inputs: int
) -> NDArray[np.intp]:
    """[n, num_inputs]: where the inputs before row `rows[i]` of sequence `sequences[i]` are, in all histories and the
    rows of the batch, one behind the other."""
    back = rows[:, np.newaxis] + np.arange(num_inputs) - num_inputs
    num_sequences = len(starts) - 1
    in_histories = (sequences[:, np.newaxis] + 1) * num_inputs + back
    in_batch = num_sequences * num_inputs + starts[sequences][:, np.newaxis] + back
    return np.where(back >= 0, in_batch, in_histories)
