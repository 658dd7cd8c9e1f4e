"""`WeightCheck`: a loader that loads nothing and finds every tensor that is missing, misshapen, unknown or unsupported.

Models build themselves from it as from a `WeightLoader`; what they become cannot compute. Reads headers alone. A
configuration may claim any number of tensors, of any size: what a check takes is bounded all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from transom.errors import WeightsError
from transom.kernels import PackedMatrix
from transom.weights.loader import WeightLoader, WeightSource

__all__ = ["MAX_PROBLEMS", "TooManyProblemsError", "WeightCheck"]

MAX_PROBLEMS = 32


class TooManyProblemsError(WeightsError):
    """Ends a check whose remainder would say nothing new."""


class WeightCheck(WeightLoader):
    """Collects what a `WeightLoader` would raise one by one; TooManyProblemsError when there are MAX_PROBLEMS."""

    def __init__(self, source: WeightSource) -> None:
        super().__init__(source)
        self.problems: list[str] = []
        """One line each, naming the tensor."""

    def are_equal(self, first: str, second: str) -> bool:
        """By type and shape; values are not read."""
        mine, other = self._source.info(first), self._source.info(second)
        return (mine.dtype, mine.shape) == (other.dtype, other.shape)

    def vector(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A zero in as many dimensions."""
        self._note(name, shape)
        return np.zeros((1,) * len(shape), np.float32)

    def matrix(self, parts: Mapping[str, int], in_features: int) -> tuple[PackedMatrix, ...]:
        """A matrix of another shape."""
        for name, rows in parts.items():
            self._note(name, (rows, in_features))
        return (PackedMatrix(1, 1, "f32"),)

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """Raises nothing."""
        try:
            super().finish(ignored)
        except WeightsError as error:
            self.problems.append(str(error))

    def _note(self, name: str, shape: tuple[int, ...]) -> None:
        self._unused.discard(name)
        try:
            self._check(name, shape)
        except WeightsError as error:
            self.problems.append(str(error))
        if len(self.problems) == MAX_PROBLEMS:
            raise TooManyProblemsError(f"{MAX_PROBLEMS} tensors do not fit the model; the others were not looked at")
