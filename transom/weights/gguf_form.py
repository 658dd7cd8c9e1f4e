"""`GgufForm`: a Hugging Face checkpoint as the tensors of a GGUF file, in the file's order of rows and shapes.

The way back of `GgufCheckpoint`, but under Hugging Face's names, by which recipes of types know tensors. The experts of
a layer are one tensor, whose name has ANY_EXPERT for their number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import WeightsError
from transom.weights.gguf_names import ANY_EXPERT, GgufNaming, file_order
from transom.weights.loader import WeightSource
from transom.weights.tensor_info import TensorInfo

__all__ = ["GgufForm"]

_EXPERT = re.compile(r"(?P<head>.*\.experts\.)(?P<number>\d+)(?P<tail>\..*)")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


class GgufForm:
    """A `WeightSource` without values of its own."""

    def __init__(
        self, source: WeightSource, naming: GgufNaming, num_heads: Mapping[str, int], *, is_tied: bool
    ) -> None:
        """`num_heads`: of `query` and of `key`. Tied embeddings lie in a checkpoint under either of their two names."""
        self._source = source
        self._naming = naming
        self._num_heads = num_heads
        self._is_only_head = is_tied and _EMBEDDING not in source.names()
        self._num_experts: dict[str, int] = {}
        for name in source.names():
            if match := _EXPERT.fullmatch(name):
                merged = match["head"] + ANY_EXPERT + match["tail"]
                self._num_experts[merged] = max(self._num_experts.get(merged, 0), int(match["number"]) + 1)

    def names(self) -> tuple[str, ...]:
        """Every tensor, by the order of layers as numbers."""
        single = (name for name in self._source.names() if not _EXPERT.fullmatch(name))
        renamed = (_EMBEDDING if self._is_only_head and name == _HEAD else name for name in single)
        return tuple(sorted((*renamed, *self._num_experts), key=_in_order))

    def info(self, name: str) -> TensorInfo:
        """Type and shape; places mean nothing here. WeightsError for an unknown name."""
        if name in self._num_experts:
            first = self._source.info(self._expert(name, 0))
            return TensorInfo(first.dtype, (self._num_experts[name], *first.shape), 0, 0)
        info = self._source.info(self._own(name))
        if self._naming.is_depthwise(name):
            return TensorInfo(info.dtype, (info.shape[0], info.shape[-1]), 0, 0)
        return TensorInfo("F32", info.shape, 0, 0) if self._is_whole_norm(name) else info

    def tensor(self, name: str) -> NDArray[Any]:
        """All of it; see `rows`."""
        return self.rows(name, 0, self.info(name).shape[0])

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Rows `begin .. end`; of all experts, whole matrices."""
        if name in self._num_experts:
            return self._experts(name, begin, end)
        order = self._order(name)
        if order is not None:
            return self._source.tensor(self._own(name))[order[begin:end]]
        values = self._source.rows(self._own(name), begin, end)
        if self._naming.is_depthwise(name):
            return values[:, 0]
        return np.float32(1) + _widened(values) if self._is_whole_norm(name) else values

    def release(self, name: str) -> None:
        """Its memory may go."""
        for number in range(self._num_experts.get(name, 0)):
            self._source.release(self._expert(name, number))
        if name not in self._num_experts:
            self._source.release(self._own(name))

    def _experts(self, name: str, begin: int, end: int) -> NDArray[Any]:
        first = self._source.info(self._expert(name, 0))
        for number in range(begin, end):
            if self._source.info(self._expert(name, number)).dtype != first.dtype:
                raise WeightsError(f"tensor {self._expert(name, number)!r} is of another type than the other experts'")
        return np.stack([self._source.tensor(self._expert(name, number)) for number in range(begin, end)])

    def _expert(self, name: str, number: int) -> str:
        return name.replace(ANY_EXPERT, str(number))

    def _own(self, name: str) -> str:
        return _HEAD if self._is_only_head and name == _EMBEDDING else name

    def _is_whole_norm(self, name: str) -> bool:
        return self._naming.has_whole_norms and name.endswith("norm.weight")

    def _order(self, name: str) -> NDArray[np.int64] | None:
        heads = self._naming.interleaved_heads(name)
        return None if heads is None else file_order(self.info(name).shape[0], self._num_heads[heads])


def _in_order(name: str) -> tuple[bool, tuple[tuple[int, str], ...]]:
    """Parts that are numbers count as such; the embedding first, the head last."""
    parts = tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))
    return name == _HEAD, parts


def _widened(values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
