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
from transom.engine.layer_speed import LayerSpeed, prompt_multiply_adds, used_bytes
from transom.engine.machine_speed import AttentionSpeed, MatrixSpeed
from transom.engine.step_speed import StepSpeed
from transom.request import CacheStrategy
from transom.weights.loader import WeightSource
from transom.weights.weight_sizes import MatrixSize

__all__ = ["MachineSpeed", "SpeedEstimate"]

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_NOT_HIDDEN = 0.5
"""Of the shorter of computing and reading, by `docs/benchmarks.md`."""
_CACHE_SHARE = 0.5
"""A model that is smaller than this part of the last cache stays in it from token to token."""


class MachineSpeed(Protocol):
    """What a machine does per second, measured now or remembered."""

    @property
    def last_cache_bytes(self) -> int: ...
    def matrix(self, dtype: str) -> MatrixSpeed: ...
    def layers(self, model_config: ModelConfig, source: WeightSource) -> LayerSpeed | None: ...
    def attention(
        self, num_attention_heads: int, num_key_value_heads: int, head_dim: int, kv_dtype: str
    ) -> AttentionSpeed: ...
    def steps(self, vocab_size: int) -> StepSpeed: ...
    def disk_bytes_per_second(self, piece_bytes: int, in_flight_bytes: int) -> float: ...


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Of one model with its budgets, on one machine."""

    model_config: ModelConfig
    engine_config: EngineConfig
    source: WeightSource
    """Of the weights, or what a configuration claims; headers only."""
    matrices: Sequence[MatrixSize]
    budget: Budget
    machine: MachineSpeed

    def decode_seconds(self, depth: int) -> float:
        """For the next token behind `depth` tokens."""
        attention = sum(self._attended_bytes(depth).values()) / self._attention().bytes_per_second
        computed = self._layer_seconds() + self._head_seconds() + attention + self._step_seconds()
        return self._beside_reading(computed, self._cold_seconds(depth))

    def prefill_seconds(self, depth: int, num_tokens: int) -> float:
        """For the next `num_tokens` of a prompt behind `depth` tokens, in chunks as the engine makes them."""
        attention = self._attention_multiply_adds(depth, num_tokens) / self._attention().multiply_adds_per_second
        num_chunks = -(-num_tokens // self._chunk(depth + num_tokens))
        per_chunk = self._head_seconds() + self._step_seconds()
        computed = self._prompt_layer_seconds(num_tokens, num_chunks) + attention + num_chunks * per_chunk
        return self._beside_reading(computed, num_chunks * self._cold_seconds(depth + num_tokens // 2))

    @staticmethod
    def _beside_reading(computed: float, reading: float) -> float:
        """Both go on at the same time, but transfers and their checksums need processors, too."""
        return max(computed, reading) + _NOT_HIDDEN * min(computed, reading)

    # ---- Weights -----------------------------------------------------------------------------------------------

    def _layer_seconds(self) -> float:
        """One token through all layers, without attention to others."""
        speed = self.machine.layers(self.model_config, self.source)
        if speed is not None:
            return sum(used_bytes(self.model_config, each) for each in self._of_layers()) / speed.bytes_per_second
        products = (
            used_bytes(self.model_config, each) / self.machine.matrix(each.dtype).bytes_per_second
            for each in self._of_layers()
        )
        return sum(products) + self._between_products_seconds()

    def _prompt_layer_seconds(self, num_tokens: int, num_chunks: int) -> float:
        """The same for many; where there are few for all the weights, these take their time through memory."""
        speed = self.machine.layers(self.model_config, self.source)
        if speed is not None:
            num_multiply_adds = num_tokens * prompt_multiply_adds(self.model_config, self._of_layers())
            computed = num_multiply_adds / speed.multiply_adds_per_second
        else:
            computed = num_chunks * self._between_products_seconds() + sum(
                num_tokens
                * prompt_multiply_adds(self.model_config, [each])
                / self.machine.matrix(each.dtype).multiply_adds_per_second
                for each in self._of_layers()
            )
        return max(computed, num_chunks * self._layer_seconds())

    def _head_seconds(self) -> float:
        """Tied embeddings are the head; others are only looked up."""
        head = next((each for each in self.matrices if each.name == _HEAD), None)
        head = head or next(each for each in self.matrices if each.name == _EMBEDDING)
        return head.num_bytes / self._rate(self.machine.matrix(head.dtype))

    def _rate(self, speed: MatrixSpeed) -> float:
        read = sum(used_bytes(self.model_config, each) for each in self.matrices)
        stays_in_cache = read < _CACHE_SHARE * self.machine.last_cache_bytes
        return speed.cached_bytes_per_second if stays_in_cache else speed.bytes_per_second

    def _of_layers(self) -> list[MatrixSize]:
        return [each for each in self.matrices if each.name not in (_EMBEDDING, _HEAD)]

    def _step_seconds(self) -> float:
        return self.machine.steps(self.model_config.vocab_size).step_seconds

    def _between_products_seconds(self) -> float:
        """Where layers were not tried."""
        return self.model_config.num_hidden_layers * self.machine.steps(self.model_config.vocab_size).layer_seconds

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
        num_slots, piece = self.cold_slots(depth), cold_slot_bytes(self.budget.slot_bytes)
        if not num_slots:
            return 0.0
        return num_slots * piece / self.machine.disk_bytes_per_second(piece, self.budget.num_staging_slots * piece)

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
