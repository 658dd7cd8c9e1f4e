"""Files of the cold tier: which bytes lie where. Knows no sequences, no budgets, no policy; `docs/storage_format.md`.

A directory belongs to one model and one server. It holds one file per layer group, of fixed slots, layer by layer:
consecutive blocks of one layer are one sequential read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transom.cache.cold_format import FORMAT_NAME, ColdFormat, ColdLayout
from transom.cache.file_system import FileSystem, LockedDirectory, OpenFile
from transom.errors import ConfigError

__all__ = ["ColdDirectory", "ColdFile", "ColdFormat", "ColdLayout", "remove_leftovers"]


class ColdFile:
    """The slots of one layer group: `capacity` blocks in each of `num_rows` layers. An IOQueue moves their bytes."""

    def __init__(self, layout: ColdLayout, file: OpenFile, file_system: FileSystem) -> None:
        self.layout = layout
        self._file = file
        self._file_system = file_system
        self._is_closed = False

    @property
    def fd(self) -> int:
        """The descriptor, for `IOQueue`."""
        return self._file.descriptor

    @property
    def is_direct(self) -> bool:
        """Whether bytes bypass the page cache."""
        return self._file.is_direct

    @property
    def num_rows(self) -> int:
        return self.layout.num_rows

    @property
    def capacity(self) -> int:
        return self.layout.capacity

    @property
    def stride(self) -> int:
        return self.layout.stride

    def offsets(self, rows: NDArray[np.int64] | int, indices: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Where slots begin, in bytes, for `IOQueue`. ValueError for a slot that is not in the file."""
        return self.layout.offsets(rows, indices)

    def punch(self, first_index: int, num_blocks: int = 1) -> None:
        """Gives consecutive blocks, in all rows, back to the disk, which no open ticket may touch. Blocks briefly.

        OSError, after trying every row: what was not given back stays charged, and can be written again.
        """
        self.offsets(0, first_index + num_blocks - 1)
        errors: list[OSError] = []
        for offset in self.offsets(np.arange(self.num_rows), first_index).tolist():
            try:
                self._file_system.punch(self._file, offset, num_blocks * self.stride)
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Closes the file and removes it: nothing of it is of use to the next run. After the queue; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._file.close()
        with suppress(ConfigError):  # then the next start removes it
            self._file_system.remove(self._file.path)


class ColdDirectory:
    """All cold files of one model, locked against other servers, empty at first.

    Nothing that an earlier run left behind survives. ConfigError, in one line, when the directory cannot be used.
    `model` is written down for people and for `transom cache`: plain values that say whose bytes these are.
    """

    def __init__(
        self, file_system: FileSystem, path: Path, layouts: Sequence[ColdLayout], model: Mapping[str, str | int]
    ) -> None:
        self.path = path
        self._file_system = file_system
        self._directory = file_system.prepare_directory(path)
        self._opened: list[OpenFile] = []
        self._is_closed = False
        try:
            self.files = self._open(ColdFormat(tuple(layouts), dict(model)))
        except BaseException:
            self._give_up()
            raise

    def _open(self, cold_format: ColdFormat) -> tuple[ColdFile, ...]:
        remove_leftovers(self._file_system, self._directory)
        self._file_system.replace(self.path / FORMAT_NAME, cold_format.to_json())
        for layout in cold_format.layouts:
            self._opened.append(self._file_system.open_cold_file(self.path / layout.file_name, layout.num_bytes))
        self.queue = self._file_system.io_queue()
        return tuple(
            ColdFile(layout, file, self._file_system)
            for layout, file in zip(cold_format.layouts, self._opened, strict=True)
        )

    def _give_up(self) -> None:
        for file in self._opened:
            file.close()
        self._directory.close()

    @property
    def is_direct(self) -> bool:
        """Whether all files bypass the page cache."""
        return all(file.is_direct for file in self.files)

    def physical_bytes(self) -> int:
        """What the directory occupies on disk, whatever lies in it. OSError when it cannot be told."""
        return self._file_system.physical_bytes(self.path)

    def close(self) -> None:
        """Waits for what is being read and written, removes the files, gives up the lock. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.queue.close()
        for file in self.files:
            file.close()
        self._directory.close()


def remove_leftovers(file_system: FileSystem, directory: LockedDirectory) -> None:
    """Removes every cold file that an earlier run left; files of other names are not ours and stay.

    ConfigError when the directory was written by a later version: what that keeps there may be wanted.
    """
    path = directory.path
    ColdFormat.check(file_system.read(path / FORMAT_NAME), path)
    for name in file_system.names(path):
        if ColdLayout.is_file_name(name):
            file_system.remove(path / name)
