"""GGUF files, one or split into several, memory-mapped and read-only.

Owns finding the parts of a split model and views on tensors under the names of the file. Knows no model: what the
names mean is `gguf_names`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from transom.errors import WeightsError
from transom.weights.ggml_types import type_named
from transom.weights.gguf_header import LEAST_BYTES, MAGIC, GgufHeader, GgufMetadata, parse_header
from transom.weights.gguf_values import Cursor, GgufValue, shown
from transom.weights.mapped_file import MappedFile
from transom.weights.tensor_info import TensorInfo

__all__ = ["GgufFile", "GgufValue", "TensorInfo", "find_gguf", "is_gguf", "open_gguf"]

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
_MAX_PARTS = 2**10


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only model in a directory without config.json; None for others.

    Of a split model its first part. Raises WeightsError for a directory with several models.
    """
    if is_gguf(path):
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    models = sorted(each for each in path.glob("*.gguf") if _is_first_part(each))
    if len(models) > 1:
        raise WeightsError(
            f"{path}: holds several GGUF models ({models[0].name}, {models[1].name}, ...); name one file"
        )
    return models[0] if models else None


def is_gguf(path: Path) -> bool:
    """Whether a path is meant as a GGUF file: by its name, or by the first bytes of a file that exists.

    Stores of downloaded models name files by their hash. False where the file cannot be read.
    """
    if path.suffix.lower() == ".gguf":
        return True
    try:
        if not path.is_file():  # reading a FIFO would wait for a writer
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _is_first_part(path: Path) -> bool:
    match = _PART.fullmatch(path.name)
    return match is None or int(match["number"]) == 1


@dataclass(frozen=True, slots=True)
class _Part:
    """One mapped file whose header was checked."""

    file: MappedFile
    header: GgufHeader

    @classmethod
    def open(cls, path: Path) -> _Part:
        file = MappedFile.open(path, "GGUF", LEAST_BYTES)
        part = cls(file, parse_header(Cursor(file.mapping, file.num_bytes, str(path))))
        file.release(0, part.header.data_start)
        return part

    def view(self, name: str) -> NDArray[Any]:
        info = self.header.tensors[name]
        ggml_type = type_named(info.dtype)
        flat = self.file.view(ggml_type.storage, *self._place(info))
        if ggml_type.element is not None:
            return flat.reshape(info.shape)
        return flat.reshape(*info.shape[:-1], ggml_type.row_bytes(info.shape[-1]))

    def release(self, name: str) -> None:
        self.file.release(*self._place(self.header.tensors[name]))

    def _place(self, info: TensorInfo) -> tuple[int, int]:
        return self.header.data_start + info.begin, self.header.data_start + info.end


class GgufFile:
    """Metadata and tensors of a model, in however many files it lies. Tensors may be read from several threads."""

    def __init__(self, metadata: GgufMetadata, parts: Mapping[str, _Part], path: Path) -> None:
        """`parts`: tensor name -> the file that holds it."""
        self.path = path
        self.metadata: Mapping[str, GgufValue] = metadata
        self._parts = parts

    def names(self) -> tuple[str, ...]:
        """Every tensor, in the order of the file."""
        return tuple(self._parts)

    def info(self, name: str) -> TensorInfo:
        """Type (`F32`, `Q4_K`, ...) and shape. Raises WeightsError for an unknown name."""
        return self._part_of(name).header.tensors[name]

    def tensor(self, name: str) -> NDArray[Any]:
        """A read-only view into the mapped file, little-endian, possibly unaligned; bf16 as uint16.

        Types of blocks come as the bytes of each row: uint8[..., row_bytes]. Valid as long as it is referenced.
        Raises WeightsError for an unknown name.
        """
        return self._part_of(name).view(name)

    def release(self, name: str) -> None:
        """Drops the tensor's pages from this process's memory; views stay valid and read the file again."""
        self._part_of(name).release(name)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, at the width they have in the files."""
        return sum(self.info(name).nbytes for name in self._parts)

    @property
    def files(self) -> tuple[MappedFile, ...]:
        """All that the tensors lie in, in order of their names."""
        files = {part.file.path: part.file for part in self._parts.values()}
        return tuple(files[path] for path in sorted(files))

    def _part_of(self, name: str) -> _Part:
        if name not in self._parts:
            raise WeightsError(f"{self.path}: tensor {name!r} is missing")
        return self._parts[name]


def open_gguf(path: Path) -> GgufFile:
    """Opens a file, or all parts of a split model when given any of them.

    Reads headers only. Raises WeightsError naming file, and key or tensor, when a header is damaged or a part missing.
    """
    given = _Part.open(path)
    count = _split_number(given, "split.count", 1)
    if count <= 1:
        return GgufFile(given.header.metadata, dict.fromkeys(given.header.tensors, given), path)
    parts = [_Part.open(each) for each in _paths_of_parts(path, count)]
    for index, part in enumerate(parts):
        _check_part(part, index, count)
    return GgufFile(parts[0].header.metadata, _tensors_of(parts), path)


def _split_number(part: _Part, key: str, default: int | None = None) -> int:
    number = part.header.metadata.get(key, default)
    if type(number) is not int or number < 0:
        raise WeightsError(f"{part.file.path}: metadata key {key!r} is {shown(number)}, must be a number of 0 or more")
    return number


def _paths_of_parts(path: Path, count: int) -> list[Path]:
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count or count > _MAX_PARTS:
        raise WeightsError(
            f"{path}: is a part of a model split into {count} files, "
            f"which must be named NAME-00001-of-{count:05}.gguf and so on (at most {_MAX_PARTS})"
        )
    paths = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = [each.name for each in paths if not each.exists()]
    if missing:
        raise WeightsError(f"{path}: is a part of a split model, of which {', '.join(missing[:3])} is missing")
    return paths


def _check_part(part: _Part, index: int, count: int) -> None:
    for key, expected in (("split.no", index), ("split.count", count)):
        if (found := _split_number(part, key)) != expected:
            raise WeightsError(f"{part.file.path}: metadata key {key!r} is {found}, by the file's name {expected}")


def _tensors_of(parts: list[_Part]) -> dict[str, _Part]:
    tensors: dict[str, _Part] = {}
    for part in parts:
        for name in part.header.tensors:
            if name in tensors:
                raise WeightsError(f"{part.file.path}: tensor {name!r} is in {tensors[name].file.path.name}, too")
            tensors[name] = part
    expected = _split_number(parts[0], "split.tensors.count", len(tensors))
    if len(tensors) != expected:
        raise WeightsError(
            f"{parts[0].file.path}: the parts hold {len(tensors)} tensors, split.tensors.count is {expected}"
        )
    return tensors
