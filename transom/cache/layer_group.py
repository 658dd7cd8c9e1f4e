"""Layers that keep the same positions share one block table: the full ones, and the sliding ones. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from transom.cache.strategy import AttendedSet, Strategy
from transom.config.kv_size import snapshot_bytes
from transom.config.model_config import LayerKind, ModelConfig


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """The attention layers of one kind."""

    kind: LayerKind
    layer_indices: tuple[int, ...]  # ascending, of the model
    window: int | None
    """Attention window in tokens; None = every earlier position stays visible, unless the strategy forgets it."""

    @property
    def num_layers(self) -> int:
        return len(self.layer_indices)

    @property
    def is_full(self) -> bool:
        """Whether a cache strategy decides what these layers see; the others have a window of their own."""
        return self.kind is LayerKind.FULL_ATTENTION

    def attended(self, strategy: Strategy) -> AttendedSet:
        """What these layers see of a sequence with this strategy."""
        return strategy.attended if self.is_full else AttendedSet(window=self.window)

    def peak_blocks(self, num_tokens: int, chunk: int, strategy: Strategy) -> int:
        """The most blocks that a sequence of `num_tokens` ever holds at once when computed in chunks of `chunk`."""
        if self.is_full:
            return strategy.peak_blocks(num_tokens, chunk)
        return self.attended(strategy).peak_blocks(num_tokens, chunk)


def layer_groups(model_config: ModelConfig) -> tuple[LayerGroup, ...]:
    """The attention layers of a model by kind, in order of first appearance. Layers that keep no KV are left out."""
    windows = {LayerKind.FULL_ATTENTION: None, LayerKind.SLIDING_ATTENTION: model_config.sliding_window}
    kinds = [kind for kind in dict.fromkeys(model_config.layer_types) if kind in windows]
    return tuple(LayerGroup(kind, _indices_of(kind, model_config), windows[kind]) for kind in kinds)


def snapshot_group(model_config: ModelConfig, slot_bytes: int) -> LayerGroup | None:
    """What the short convolutions of one sequence remember, as a block of a group of its own; None without such.

    Such a block has as many slots as the bytes of a state take, not one for each layer.
    """
    num_slots = -(-snapshot_bytes(model_config) // slot_bytes)
    return LayerGroup(LayerKind.SHORT_CONV, tuple(range(num_slots)), None) if num_slots else None


def _indices_of(kind: LayerKind, model_config: ModelConfig) -> tuple[int, ...]:
    return tuple(index for index, each in enumerate(model_config.layer_types) if each is kind)
