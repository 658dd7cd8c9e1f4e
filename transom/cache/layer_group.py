"""Layers that keep the same positions share one block table: the full ones, and the sliding ones. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from transom.cache.block import BLOCK_SIZE, max_blocks_of_run, num_blocks
from transom.config.model_config import LayerKind, ModelConfig


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """The attention layers of one kind."""

    kind: LayerKind
    layer_indices: tuple[int, ...]  # ascending, of the model
    window: int | None
    """Attention window in tokens; None = every earlier position stays visible."""

    @property
    def num_layers(self) -> int:
        return len(self.layer_indices)

    def first_visible_block(self, num_computed_tokens: int) -> int:
        """The first block that the token at position `num_computed_tokens`, or any later one, can still see."""
        if self.window is None:
            return 0
        return max(0, num_computed_tokens - self.window + 1) // BLOCK_SIZE

    def peak_blocks(self, num_tokens: int, chunk: int) -> int:
        """The most blocks a sequence of `num_tokens` ever holds at once when it is computed in chunks of `chunk`.

        A chunk needs its own tokens and what the first of them sees behind itself.
        """
        if self.window is None:
            return num_blocks(num_tokens)
        return min(num_blocks(num_tokens), max_blocks_of_run(self.window - 1 + chunk))


def layer_groups(model_config: ModelConfig) -> tuple[LayerGroup, ...]:
    """The attention layers of a model by kind, in order of first appearance. Layers that keep no KV are left out."""
    windows = {LayerKind.FULL_ATTENTION: None, LayerKind.SLIDING_ATTENTION: model_config.sliding_window}
    kinds = [kind for kind in dict.fromkeys(model_config.layer_types) if kind in windows]
    return tuple(LayerGroup(kind, _indices_of(kind, model_config), windows[kind]) for kind in kinds)


def _indices_of(kind: LayerKind, model_config: ModelConfig) -> tuple[int, ...]:
    return tuple(index for index, each in enumerate(model_config.layer_types) if each is kind)
