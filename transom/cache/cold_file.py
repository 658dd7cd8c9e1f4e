"""Files of the cold tier: which bytes lie where. Knows no sequences, no budgets, no policy; `docs/storage_format.md`.

A directory belongs to one model and one server. It holds one file per layer group, of fixed slots, layer by layer:
consecutive blocks of one layer are one sequential read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transom.cache.cold_format import FORMAT_NAME, ColdFormat, ColdLayout
from transom.cache.file_system import FileSystem, LockedDirectory, OpenFile
from transom.cache.prefix_database import database_bytes, remove_database
from transom.errors import ConfigError

__all__ = [
    "FINGERPRINT_NAME",
    "ColdDirectory",
    "ColdFile",
    "ColdFormat",
    "ColdLayout",
    "Identify",
    "remove_leftovers",
]

FINGERPRINT_NAME = "fingerprint.json"

Identify = Callable[[bytes | None], tuple[bytes, bytes]]
"""Says what keys and values are made by, in 32 bytes; may take as long as reading the model. What it remembers in the
directory, to be quicker the next time, is its argument and its second result."""


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

    def sync(self) -> None:
        """Blocks until what was written is durable. OSError, after which nobody knows, and nobody should ask again."""
        self._file_system.sync(self._file)

    def close(self) -> None:
        """After the queue; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._file.close()


class ColdDirectory:
    """All cold files of one model, locked against other servers.

    With `identify` they are as an earlier run left them, if that was of the same identity and layout. Otherwise they
    are empty, and nothing that an earlier run left behind survives. ConfigError, in one line, when the directory cannot
    be used. `model` is written down for people and for `transom cache`.
    """

    def __init__(
        self,
        file_system: FileSystem,
        path: Path,
        layouts: Sequence[ColdLayout],
        model: Mapping[str, str | int],
        identify: Identify | None = None,
    ) -> None:
        self.path = path
        self.file_system = file_system
        self.identity: bytes | None = None
        self._directory = file_system.prepare_directory(path)
        self._opened: list[OpenFile] = []
        self._is_closed = False
        try:
            self._check_version()
            self.identity = None if identify is None else self._identify(identify)
            self.files = self._open(self._format(layouts, model))
        except BaseException:
            self._give_up()
            raise

    @property
    def is_direct(self) -> bool:
        """Whether all files bypass the page cache."""
        return all(file.is_direct for file in self.files)

    def physical_bytes(self) -> int:
        """What the directory occupies on disk, whatever lies in it. OSError when it cannot be told."""
        return self.file_system.physical_bytes(self.path)

    def other_bytes(self) -> int:
        """The same without cold files and database. OSError when it cannot be told."""
        cold_bytes = sum(self.file_system.file_bytes(file.path) for file in self._opened)
        return self.physical_bytes() - cold_bytes - database_bytes(self.file_system, self.path)

    def sync(self) -> None:
        """Blocks until what was written to the cold files is durable. OSError, after which nobody should ask again."""
        for file in self.files:
            file.sync()

    def close(self, *, keep: bool = False) -> None:
        """Waits for what is being read and written, gives up lock and files; `keep`: for the next run. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.queue.close()
        for file in self.files:
            file.close()
        if not keep:
            with suppress(ConfigError):  # then the next start removes them
                remove_leftovers(self.file_system, self._directory)
        self._directory.close()

    def _check_version(self) -> None:
        ColdFormat.check(self.file_system.read(self.path / FORMAT_NAME), self.path)

    def _identify(self, identify: Identify) -> bytes:
        path = self.path / FINGERPRINT_NAME
        remembered = self.file_system.read(path)
        identity, to_remember = identify(remembered)
        if to_remember != remembered:
            self.file_system.replace(path, to_remember)
        return identity

    def _format(self, layouts: Sequence[ColdLayout], model: Mapping[str, str | int]) -> ColdFormat:
        return ColdFormat(tuple(layouts), dict(model), None if self.identity is None else self.identity.hex())

    def _open(self, wanted: ColdFormat) -> tuple[ColdFile, ...]:
        kept = self._kept_format(wanted)
        if kept is None:
            remove_leftovers(self.file_system, self._directory)
            self.file_system.replace(self.path / FORMAT_NAME, wanted.to_json())
        layouts = (kept or wanted).layouts
        for layout in layouts:
            path = self.path / layout.file_name
            self._opened.append(self.file_system.open_cold_file(path, layout.num_bytes, keep=kept is not None))
        self.queue = self.file_system.io_queue()
        return tuple(
            ColdFile(layout, file, self.file_system) for layout, file in zip(layouts, self._opened, strict=True)
        )

    def _kept_format(self, wanted: ColdFormat) -> ColdFormat | None:
        """Of the files that are there, if they are what is wanted."""
        try:
            found = ColdFormat.from_json(self.file_system.read(self.path / FORMAT_NAME) or b"")
        except ValueError:
            return None
        sizes = {layout.file_name: layout.num_bytes for layout in found.layouts}
        is_whole = all(self.file_system.file_size(self.path / name) == size for name, size in sizes.items())
        return found if is_whole and found.serves(wanted) else None

    def _give_up(self) -> None:
        for file in self._opened:
            file.close()
        self._directory.close()


def remove_leftovers(file_system: FileSystem, directory: LockedDirectory) -> None:
    """Removes the cold files that an earlier run left, and its database; files of other names are not ours and stay.

    ConfigError when the directory was written by a later version: what that keeps there may be wanted.
    """
    path = directory.path
    ColdFormat.check(file_system.read(path / FORMAT_NAME), path)
    remove_database(file_system, path)
    for name in file_system.names(path):
        if ColdLayout.is_file_name(name):
            file_system.remove(path / name)
