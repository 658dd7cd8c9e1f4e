"""`TensorInfo`: one tensor as a weight file's header describes it, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TensorInfo"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Type, shape and place; `begin` and `end` count bytes from the start of the file's data.

    `dtype` is the format's own name: `F32`, `BF16`, `Q4_K`. The shape counts elements, in row-major order.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.begin
