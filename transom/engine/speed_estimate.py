"""How fast a model will decode and read prompts: its bytes and multiplications over what the machine can do.

Arithmetic alone; an estimate, for one sequence. Decode is bound by the memory that a token must read, weights and keys
and values, and with a cold tier by the disk; prompts by multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transom.cache.budget import Budget
from transom.config.engine_config import BLOCK_SIZE, COLD_CHUNK_GROWTH, EngineConfig
from transom.config.kv_size import cold_slot_bytes, kv_bytes_per_token_by_kind
from transom.config.model_config import LayerKind, ModelConfig
from transom.engine.machine_speed import AttentionSpeed, MatrixSpeed
from transom.engine.step_speed import StepSpeed
from transom.request import CacheStrategy
from transom.weights.weight_sizes import MatrixSize

__all__ = ["MachineSpeed", "SpeedEstimate"]

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_EXPERTS = ".experts."
_CACHE_SHARE = 0.5
"""A model that is smaller than this part of the last cache stays in it from token to token."""


class MachineSpeed(Protocol):
    """What a machine does per second, measured now or remembered."""

    @property
    def last_cache_bytes(self) -> int: ...
    def matrix(self, dtype: str) -> MatrixSpeed: ...
    def attention(
        self, num_attention_heads: int, num_key_value_heads: int, head_dim: int, kv_dtype: str
    ) -> AttentionSpeed: ...
    def steps(self) -> StepSpeed: ...
    def disk_bytes_per_second(self, piece_bytes: int) -> float: ...


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Of one model with its budgets, on one machine."""

    model_config: ModelConfig
    engine_config: EngineConfig
    matrices: Sequence[MatrixSize]
    budget: Budget
    machine: MachineSpeed

    def decode_seconds(self, depth: int) -> float:
        """For the next token behind `depth` tokens."""
        products = sum(self._share(each) * self._one_row_seconds(each) for each in self._multiplied())
        attention = sum(self._attended_bytes(depth).values()) / self._attention().bytes_per_second
        computed = products + attention + self._overhead_seconds()
        return max(computed, self._cold_seconds(depth))

    def prefill_seconds(self, depth: int, num_tokens: int) -> float:
        """For the next `num_tokens` of a prompt behind `depth` tokens, in chunks as the engine makes them."""
        products = sum(
            self._one_row_seconds(each) if self._is_head(each) else self._rows_seconds(each, num_tokens)
            for each in self._multiplied()
        )
        attention = self._attention_multiply_adds(depth, num_tokens) / self._attention().multiply_adds_per_second
        num_chunks = -(-num_tokens // self._chunk(depth + num_tokens))
        computed = products + attention + num_chunks * self._overhead_seconds()
        return max(computed, num_chunks * self._cold_seconds(depth + num_tokens // 2))

    # ---- Weights -----------------------------------------------------------------------------------------------

    def _multiplied(self) -> list[MatrixSize]:
        """All but an embedding that is only looked up."""
        has_head = any(each.name == _HEAD for each in self.matrices)
        return [each for each in self.matrices if not (has_head and each.name == _EMBEDDING)]

    def _is_head(self, matrix: MatrixSize) -> bool:
        """Of a prompt only the last row comes out."""
        return matrix.name in (_HEAD, _EMBEDDING)

    def _share(self, matrix: MatrixSize) -> float:
        """How much of it one token needs, on the mean."""
        experts = self.model_config.experts
        if experts is None or _EXPERTS not in matrix.name:
            return 1.0
        return experts.num_experts_per_tok / experts.num_experts

    def _one_row_seconds(self, matrix: MatrixSize) -> float:
        speed = self.machine.matrix(matrix.dtype)
        rate = speed.cached_bytes_per_second if self._stays_in_cache() else speed.bytes_per_second
        return matrix.num_bytes / rate + speed.call_seconds

    def _rows_seconds(self, matrix: MatrixSize, num_rows: int) -> float:
        """Multiplications, or the weights' way through memory where there are few rows for each."""
        multiply_adds = self._share(matrix) * num_rows * matrix.out_features * matrix.in_features
        speed = self.machine.matrix(matrix.dtype)
        return max(multiply_adds / speed.multiply_adds_per_second, self._one_row_seconds(matrix))

    def _stays_in_cache(self) -> bool:
        read = sum(self._share(each) * each.num_bytes for each in self._multiplied())
        return read < _CACHE_SHARE * self.machine.last_cache_bytes

    def _overhead_seconds(self) -> float:
        steps = self.machine.steps()
        return steps.step_seconds + self.model_config.num_hidden_layers * steps.layer_seconds

    # ---- Keys and values ---------------------------------------------------------------------------------------

    def _attention(self) -> AttentionSpeed:
        config = self.model_config
        return self.machine.attention(
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, self.engine_config.kv_dtype
        )

    def _attended_bytes(self, depth: int) -> dict[LayerKind, int]:
        """That one token reads, by kind of layers."""
        per_token = kv_bytes_per_token_by_kind(self.model_config, self.engine_config.kv_dtype)
        return {kind: size * self._attended_tokens(kind, depth) for kind, size in per_token.items()}

    def _attended_tokens(self, kind: LayerKind, depth: int) -> int:
        if kind is LayerKind.SLIDING_ATTENTION and self.model_config.sliding_window is not None:
            return min(depth, self.model_config.sliding_window)
        options = self.engine_config.cache
        has_window = options.strategy in (CacheStrategy.SLIDING_WINDOW, CacheStrategy.KEEP_FIRST)
        if kind is LayerKind.FULL_ATTENTION and has_window and options.window_size is not None:
            return min(depth, options.window_size)
        return depth

    def _attention_multiply_adds(self, depth: int, num_tokens: int) -> float:
        config = self.model_config
        per_token = 2 * config.num_attention_heads * config.head_dim
        middle = depth + num_tokens // 2
        layers = (kind for kind in config.layer_types if kind is not LayerKind.SHORT_CONV)
        return float(num_tokens * per_token * sum(self._attended_tokens(kind, middle) for kind in layers))

    # ---- The cold tier -----------------------------------------------------------------------------------------

    def _cold_seconds(self, depth: int) -> float:
        """To read everything that is not in RAM once."""
        num_bytes = self.cold_slots(depth) * cold_slot_bytes(self.budget.slot_bytes)
        if not num_bytes:
            return 0.0
        return num_bytes / self.machine.disk_bytes_per_second(cold_slot_bytes(self.budget.slot_bytes))

    def cold_slots(self, depth: int) -> int:
        """Of a sequence of so many tokens, alone: what does not fit into RAM beside one more block."""
        if not self.budget.has_cold_tier or not self.budget.fits(max(1, depth)):
            return 0
        block_slots = sum(group.num_layers for group in self.budget.groups)
        kept = sum(
            group.num_layers * -(-self._attended_tokens(group.kind, depth) // BLOCK_SIZE)
            for group in self.budget.groups
        )
        return max(0, kept - (self.budget.num_hot_slots - block_slots))

    def _chunk(self, num_tokens: int) -> int:
        """As the cache asks for: longer where much is cold."""
        chunk = self.budget.chunk
        cold = self.cold_slots(num_tokens)
        if not cold:
            return chunk
        kept = cold + self.budget.num_hot_slots
        return chunk + chunk * (COLD_CHUNK_GROWTH - 1) * cold // kept
