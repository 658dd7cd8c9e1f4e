"""What the files of a cold directory look like: names, offsets, `format.json`. Touches no file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transom.cache.file_system import PAGE_BYTES
from transom.config.model_config import LayerKind
from transom.errors import ConfigError

__all__ = ["FORMAT_NAME", "FORMAT_VERSION", "KIND_NAMES", "ColdFormat", "ColdLayout"]

FORMAT_NAME = "format.json"
FORMAT_VERSION = 2

_KNOWN_VERSIONS = (1, FORMAT_VERSION)
"""In version 1 nothing outlived a run, so there is nothing to be found."""
_FORMAT = "transom-cold"
KIND_NAMES = {
    LayerKind.FULL_ATTENTION: "full",
    LayerKind.SLIDING_ATTENTION: "sliding",
    LayerKind.SHORT_CONV: "conv",
}
"""Of layouts, by the kind of the group's layers."""
_PREFIX, _SUFFIX = "cold-", ".kv"


@dataclass(frozen=True, slots=True)
class ColdLayout:
    """The slots of one file: `capacity` blocks for each of `num_rows` rows, row by row."""

    name: str
    """Of the layer group."""
    num_rows: int
    """Layers of the group."""
    capacity: int
    """Blocks."""
    slot_bytes: int
    """One layer's share of a block, in the arena."""

    @property
    def stride(self) -> int:
        """Bytes from slot to slot in the file: whole pages."""
        return -(-self.slot_bytes // PAGE_BYTES) * PAGE_BYTES

    @property
    def kind(self) -> LayerKind | None:
        """Of the layers whose blocks lie here; None for a name that no kind has."""
        return next((kind for kind, name in KIND_NAMES.items() if name == self.name), None)

    def has_place(self, index: int, num_slots: int) -> bool:
        """Whether a block of so many slots can lie there."""
        return num_slots == self.num_rows and 0 <= index < self.capacity

    @property
    def block_bytes(self) -> int:
        """What a block takes in the file, all rows together."""
        return self.num_rows * self.stride

    @property
    def num_bytes(self) -> int:
        """The size of the file, most of which may be holes."""
        return self.capacity * self.block_bytes

    @property
    def file_name(self) -> str:
        return f"{_PREFIX}{self.name}{_SUFFIX}"

    def serves(self, wanted: ColdLayout) -> bool:
        """Whether a file that lies like this can take the place of the one that is wanted."""
        return self.capacity >= wanted.capacity and replace(self, capacity=wanted.capacity) == wanted

    @staticmethod
    def is_file_name(name: str) -> bool:
        """Whether a file of this name is a cold file, of this or another layout."""
        return name.startswith(_PREFIX) and name.endswith(_SUFFIX)

    def offsets(self, rows: NDArray[np.int64] | int, indices: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Where slots begin, int64, of the common shape of both.

        ValueError for a slot that is not in the file.
        """
        row, index = np.broadcast_arrays(np.asarray(rows, np.int64), np.asarray(indices, np.int64))
        if np.any((row < 0) | (row >= self.num_rows) | (index < 0) | (index >= self.capacity)):
            raise ValueError(f"a slot outside {self.num_rows} rows of {self.capacity} blocks")
        places: NDArray[np.int64] = (row * self.capacity + index) * self.stride
        return places


@dataclass(frozen=True, slots=True)
class ColdFormat:
    """The content of `format.json`."""

    layouts: tuple[ColdLayout, ...]
    model: Mapping[str, str | int]
    """Whose keys and values these are, for people."""
    identity: str | None = None
    """What the keys and values were made by, as hexadecimal digits; None: nobody will want them after this run."""
    version: int = FORMAT_VERSION

    def serves(self, wanted: ColdFormat) -> bool:
        """Whether files of this format are as good as those that are wanted: the same things are where they belong."""
        return (
            self.identity is not None
            and self.version == FORMAT_VERSION
            and self.identity == wanted.identity
            and len(self.layouts) == len(wanted.layouts)
            and all(mine.serves(other) for mine, other in zip(self.layouts, wanted.layouts, strict=True))
        )

    def to_json(self) -> bytes:
        content = {
            "format": _FORMAT,
            "version": FORMAT_VERSION,
            "model": dict(self.model),
            "identity": self.identity,
            "files": [{**asdict(layout), "file": layout.file_name, "stride": layout.stride} for layout in self.layouts],
        }
        return json.dumps(content, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> ColdFormat:
        """ValueError when it is damaged."""
        try:
            data = json.loads(content)
            files, model, identity, version = data["files"], data["model"], data.get("identity"), data["version"]
            if not isinstance(files, list) or not isinstance(model, dict) or not isinstance(identity, str | None):
                raise TypeError("a list of files, an object, and a string")
            return cls(tuple(_layout(each) for each in files), model, identity, _size(version))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{FORMAT_NAME} is damaged") from error

    @staticmethod
    def check(content: bytes | None, directory: Path) -> None:
        """ConfigError when somebody else, or a later version, wrote this; a damaged or missing file says nothing."""
        try:
            data = json.loads(content or b"")
        except (ValueError, RecursionError):
            return
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ConfigError(f"ssd_path {directory} holds a {FORMAT_NAME} of another program")
        if data.get("version") not in _KNOWN_VERSIONS:
            raise ConfigError(
                f"ssd_path {directory} has format version {data.get('version')}, this version of Transom knows "
                f"{FORMAT_VERSION}: give it another directory, or remove this one"
            )


def _layout(data: Mapping[str, object]) -> ColdLayout:
    name, *sizes = (data[key] for key in ("name", "num_rows", "capacity", "slot_bytes"))
    return ColdLayout(str(name), *(_size(size) for size in sizes))


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TypeError("a size is a positive number")
    return value
