"""Feed-forward blocks: gated linear units (Shazeer, 2020), alone or as a mixture of experts (Shazeer et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.layers.linear import Linear

Floats = NDArray[np.float32]


class FeedForward(Protocol):
    """What stands behind attention in a layer."""

    def forward(self, x: Floats) -> Floats:
        """[T, hidden_size] -> [T, hidden_size]."""
        ...


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """down(activation(gate(x)) * up(x)); gate and up are one fused product."""

    gate_up: Linear  # [2 * intermediate_size, hidden_size]: gate rows, then up rows
    down: Linear  # [hidden_size, intermediate_size]
    gate: Callable[[Floats], Floats] = kernels.swiglu

    def forward(self, x: Floats) -> Floats:
        """[T, hidden_size] -> [T, hidden_size]."""
        return self.down.forward(self.gate(self.gate_up.forward(x)))


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """Each token goes through the few experts that its router scores highest; the others are not computed."""

    router: Linear  # [num_experts, hidden_size]
    experts: tuple[GatedMLP, ...]
    num_experts_per_tok: int
    normalizes_shares: bool
    """The chosen experts' shares are divided by their sum."""

    def forward(self, x: Floats) -> Floats:
        """[T, hidden_size] -> [T, hidden_size]. A row adds up its experts in the order of their numbers."""
        chosen, shares = self._route(x)
        mixed = np.zeros_like(x)
        for index in np.unique(chosen):
            rows, places = np.nonzero(chosen == index)
            mixed[rows] += self.experts[index].forward(x[rows]) * shares[rows, places, np.newaxis]
        return mixed

    def _route(self, x: Floats) -> tuple[NDArray[np.intp], Floats]:
        """Numbers and shares of the chosen experts, [T, num_experts_per_tok] each; of equals the first are chosen."""
        shares = kernels.softmax(self.router.forward(x))
        chosen = np.argsort(-shares, axis=1, kind="stable")[:, : self.num_experts_per_tok]
        weights = np.take_along_axis(shares, chosen, axis=1)
        if self.normalizes_shares:
            weights = weights / weights.cumsum(axis=1)[:, -1:]
        return chosen, weights
