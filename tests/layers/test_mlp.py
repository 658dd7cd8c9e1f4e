"""Mixtures of experts: which experts a token goes through, and that its neighbours change no bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from transom import kernels
from transom.layers.linear import Linear
from transom.layers.mlp import GatedMLP, MixtureOfExperts

Floats = NDArray[np.float32]
HIDDEN, INTERMEDIATE, EXPERTS = 12, 7, 6


def linear(rng: np.random.Generator, out_features: int, in_features: int) -> tuple[Linear, Floats]:
    weight = rng.standard_normal((out_features, in_features), dtype=np.float32) * np.float32(0.5)
    matrix = kernels.PackedMatrix(out_features, in_features, "f32")
    matrix.fill(0, weight)
    return Linear((matrix,)), weight


class Mixture:
    """A mixture with random weights, and the same in float64."""

    def __init__(self, num_experts_per_tok: int, normalizes_shares: bool) -> None:
        rng = np.random.default_rng(11)
        router, self.router = linear(rng, EXPERTS, HIDDEN)
        parts = [(linear(rng, 2 * INTERMEDIATE, HIDDEN), linear(rng, HIDDEN, INTERMEDIATE)) for _ in range(EXPERTS)]
        self.weights = [(gate_up, down) for (_, gate_up), (_, down) in parts]
        experts = tuple(GatedMLP(gate_up, down) for (gate_up, _), (down, _) in parts)
        self.layer = MixtureOfExperts(router, experts, num_experts_per_tok, normalizes_shares)

    def dense(self, x: Floats) -> NDArray[np.float64]:
        """All experts for every token; those that are not chosen have no share."""
        logits = x.astype(np.float64) @ self.router.T
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        least = np.sort(shares, axis=1)[:, -self.layer.num_experts_per_tok, np.newaxis]
        shares = np.where(shares >= least, shares, 0)
        if self.layer.normalizes_shares:
            shares /= shares.sum(axis=1, keepdims=True)
        mixed: NDArray[np.float64] = sum(
            shares[:, index, np.newaxis] * self.expert(index, x) for index in range(EXPERTS)
        )  # type: ignore[assignment]
        return mixed

    def expert(self, index: int, x: Floats) -> NDArray[np.float64]:
        gate_up, down = self.weights[index]
        gate, up = np.split(x.astype(np.float64) @ gate_up.T, 2, axis=1)
        result: NDArray[np.float64] = (gate / (1 + np.exp(-gate)) * up) @ down.T
        return result


CASES = [(1, False), (2, False), (3, True), (EXPERTS, True)]


@pytest.mark.parametrize(("num_experts_per_tok", "normalizes_shares"), CASES)
def test_a_token_goes_through_the_experts_with_the_largest_shares(
    num_experts_per_tok: int, normalizes_shares: bool
) -> None:
    mixture = Mixture(num_experts_per_tok, normalizes_shares)
    x = np.random.default_rng(1).standard_normal((50, HIDDEN), dtype=np.float32)
    np.testing.assert_allclose(mixture.layer.forward(x), mixture.dense(x), atol=1e-5)


@pytest.mark.parametrize(("num_experts_per_tok", "normalizes_shares"), CASES)
def test_a_row_does_not_depend_on_the_rows_beside_it(num_experts_per_tok: int, normalizes_shares: bool) -> None:
    layer = Mixture(num_experts_per_tok, normalizes_shares).layer
    rng = np.random.default_rng(2)
    x = rng.standard_normal((70, HIDDEN), dtype=np.float32)
    together = layer.forward(x)
    order = rng.permutation(len(x))
    assert np.array_equal(layer.forward(x[order]), together[order])
    for count in (1, 2, 17):
        parts = [layer.forward(x[start : start + count]) for start in range(0, len(x), count)]
        assert np.array_equal(np.concatenate(parts), together)


def test_of_equal_shares_the_first_experts_are_chosen() -> None:
    mixture = Mixture(2, normalizes_shares=True)
    x = np.zeros((3, HIDDEN), np.float32)
    x[1] = 1
    router = kernels.PackedMatrix(EXPERTS, HIDDEN, "f32")  # zero: all shares are equal
    layer = MixtureOfExperts(Linear((router,)), mixture.layer.experts, 2, normalizes_shares=True)
    expected = (mixture.expert(0, x) + mixture.expert(1, x)) / 2
    np.testing.assert_allclose(layer.forward(x), expected, atol=1e-5)


def test_an_expert_that_nobody_chose_is_not_computed() -> None:
    mixture = Mixture(1, normalizes_shares=False)
    x = np.random.default_rng(3).standard_normal((1, HIDDEN), dtype=np.float32)
    chosen = int((x @ mixture.router.T).argmax())
    nothing = GatedMLP(Linear(()), Linear(()))  # would fail if it were asked
    experts = tuple(expert if index == chosen else nothing for index, expert in enumerate(mixture.layer.experts))
    layer = MixtureOfExperts(mixture.layer.router, experts, 1, normalizes_shares=False)
    assert np.array_equal(layer.forward(x), mixture.layer.forward(x))
