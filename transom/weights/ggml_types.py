"""The tensor types of GGUF files: numbers, names, block sizes. Knows no file and no arithmetic.

A row of K elements is K / block_size blocks of block_bytes bytes, one after the other; blocks never cross rows.
Source: the type table of ggml (`ggml_type`, `ggml_type_size`, `ggml_blck_size`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["FILE_TYPES", "GGML_TYPES", "GgmlType", "type_named"]


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One type. `element` is None where a block is more than an array of elements."""

    name: str
    block_size: int = 1
    """Elements of a block."""
    block_bytes: int = 1
    element: np.dtype[np.generic] | None = None
    """What one element is in NumPy; bf16 travels as uint16."""

    @property
    def storage(self) -> np.dtype[np.generic]:
        """Of the arrays that hold such a tensor: elements, or the blocks' bytes."""
        return _BYTE if self.element is None else self.element

    def row_bytes(self, num_elements: int) -> int:
        """Bytes of a row of whole blocks."""
        return num_elements // self.block_size * self.block_bytes


_BYTE: np.dtype[np.generic] = np.dtype("u1")


def _plain(name: str, element: str) -> GgmlType:
    dtype: np.dtype[np.generic] = np.dtype(element)
    return GgmlType(name, 1, dtype.itemsize, dtype)


GGML_TYPES = {
    0: _plain("F32", "<f4"),
    1: _plain("F16", "<f2"),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    9: GgmlType("Q8_1", 32, 40),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: _plain("I8", "i1"),
    25: _plain("I16", "<i2"),
    26: _plain("I32", "<i4"),
    27: _plain("I64", "<i8"),
    28: _plain("F64", "<f8"),
    29: GgmlType("IQ1_M", 256, 56),
    30: _plain("BF16", "<u2"),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
    41: GgmlType("Q1_0", 128, 18),
}
"""By the number that stands in a file. Numbers that are missing were withdrawn by the format, or are not known here."""

FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""Names of `general.file_type`: the recipe by which a file's tensors got their types."""

_BY_NAME = {each.name: each for each in GGML_TYPES.values()}


def type_named(name: str) -> GgmlType:
    """The type with this name, which is one of the table's."""
    return _BY_NAME[name]
