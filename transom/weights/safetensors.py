"""Checkpoints of one or several safetensors files, memory-mapped and read-only.

Owns finding the files, keeping inside the model's directory, and views on their tensors. Weights in other forms
(`.bin`, `.pt`: pickles, which run code when read) are never opened. Knows no model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.config.json_file import read_json_object
from transom.errors import ConfigError, WeightsError
from transom.weights.mapped_file import MappedFile
from transom.weights.safetensors_header import LENGTH_BYTES, header_length, parse_header
from transom.weights.tensor_info import TensorInfo

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Types NumPy does not have travel as the unsigned integers of their bits.
_STORAGE = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """One mapped file whose header was checked."""

    file: MappedFile
    data_start: int
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Maps the file and checks its header. Raises WeightsError naming file and offset or tensor."""
        file = MappedFile.open(path, "safetensors", LENGTH_BYTES)
        length = header_length(file.mapping[:LENGTH_BYTES], file.num_bytes, str(path))
        data_start = LENGTH_BYTES + length
        header = file.mapping[LENGTH_BYTES:data_start]
        return cls(file, data_start, parse_header(header, file.num_bytes - data_start, str(path)))

    def view(self, name: str) -> NDArray[Any]:
        """The tensor's bytes where they lie, read-only; possibly unaligned."""
        info = self.tensors[name]
        return self.file.view(_STORAGE[info.dtype], *self._place(info)).reshape(info.shape)

    def release(self, name: str) -> None:
        """Gives the RAM behind a tensor back to the system; the next access reads the file again."""
        self.file.release(*self._place(self.tensors[name]))

    def _place(self, info: TensorInfo) -> tuple[int, int]:
        return self.data_start + info.begin, self.data_start + info.end


class Checkpoint:
    """All tensors of a model by name, whichever file they lie in. Read-only; safe to use from several threads."""

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        """`files`: tensor name -> the file that holds it."""
        self._files = files

    def names(self) -> tuple[str, ...]:
        """Every tensor of the checkpoint, sorted."""
        return tuple(sorted(self._files))

    def info(self, name: str) -> TensorInfo:
        """dtype (`F32`, `BF16`, ...) and shape. Raises WeightsError for an unknown name."""
        return self._file_of(name).tensors[name]

    def tensor(self, name: str) -> NDArray[Any]:
        """A read-only view into the mapped file, little-endian, possibly unaligned; bf16 as uint16.

        Valid as long as it is referenced. Raises WeightsError for an unknown name.
        """
        return self._file_of(name).view(name)

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Rows `begin .. end` of `tensor(name)`."""
        return self.tensor(name)[begin:end]

    def release(self, name: str) -> None:
        """Drops the tensor's pages from this process's memory; views stay valid and read the file again."""
        self._file_of(name).release(name)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, at the width they have in the files."""
        return sum(self.info(name).nbytes for name in self._files)

    @property
    def files(self) -> tuple[MappedFile, ...]:
        """All that the tensors lie in, in order of their names."""
        files = {each.file.path: each.file for each in self._files.values()}
        return tuple(files[path] for path in sorted(files))

    def _file_of(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            raise WeightsError(f"tensor {name!r} is missing in the checkpoint")
        return self._files[name]


def open_checkpoint(directory: Path) -> Checkpoint:
    """Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.

    Reads headers only. Raises WeightsError naming file and tensor.
    """
    if (directory / SINGLE_FILE).exists():
        file = SafetensorsFile.open(_inside(directory, SINGLE_FILE))
        return Checkpoint(dict.fromkeys(file.tensors, file))
    if (directory / INDEX_FILE).exists():
        return _open_shards(directory, _read_weight_map(directory / INDEX_FILE))
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    hint = f"; {pickles[0]} is a pickle, which is never loaded" if pickles else ""
    raise WeightsError(f"{directory}: has neither {SINGLE_FILE} nor {INDEX_FILE}{hint}")


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = read_json_object(index).get("weight_map")
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise WeightsError(f"{index}: weight_map must map tensor names to file names")
    return weight_map


def _open_shards(directory: Path, weight_map: dict[str, str]) -> Checkpoint:
    shards = {name: SafetensorsFile.open(_inside(directory, name)) for name in sorted({*weight_map.values()})}
    for tensor, name in weight_map.items():
        if tensor not in shards[name].tensors:
            raise WeightsError(f"{directory / name}: tensor {tensor!r} is missing, the index says it is here")
    for name, shard in shards.items():
        if unlisted := sorted(shard.tensors.keys() - weight_map.keys()):
            raise WeightsError(f"{directory / name}: tensor {unlisted[0]!r} is not listed in {INDEX_FILE}")
    return Checkpoint({tensor: shards[name] for tensor, name in weight_map.items()})


def _inside(directory: Path, name: str) -> Path:
    """The file `name` of the directory, proven to lie there: no path in the name, no symbolic link that leads out.

    The Hugging Face cache is the one layout that links on purpose: `snapshots/REVISION/NAME -> ../../blobs/HASH`.
    """
    if Path(name).name != name or name in ("", "..") or "\0" in name:
        raise WeightsError(f"{directory}: {name!r} is not a plain file name")
    home = directory.resolve()
    real = Path(os.path.realpath(home / name))  # unlike Path.resolve, at peace with a link to itself
    blobs = home.parent.parent / "blobs"
    if real.parent != home and not (home.parent.name == "snapshots" and real.parent == blobs):
        raise WeightsError(f"{directory / name}: is a symbolic link out of the model's directory")
    return real
