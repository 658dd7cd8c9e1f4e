"""Which files a model was read from: name, size, time and inode of each, to notice later that one was replaced."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from transom.errors import WeightsError
from transom.weights.gguf import find_gguf

__all__ = ["FileStamps"]

_PATTERNS = ("config.json", "*.safetensors", "*.safetensors.index.json")
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class FileStamps:
    """The files of one model as they were."""

    path: Path
    stamps: dict[str, tuple[int, int, int]]
    """Size, time of the last change in ns, and inode, by name."""

    @classmethod
    def of(cls, path: Path) -> FileStamps:
        """As they are now; reads no contents. Raises WeightsError or OSError for what is not there."""
        return cls(path, {file.name: _stamp(file) for file in _files(path)})

    def check(self) -> None:
        """Raises WeightsError that names the first file that is gone, new, or not the same any more."""
        now = self._now()
        for name in sorted(self.stamps.keys() | now.keys()):
            if self.stamps.get(name) == now.get(name):
                continue
            what = "is gone" if name not in now else "is new" if name not in self.stamps else "was replaced"
            raise WeightsError(
                f"{self.path}: {name} {what} since the server read the model; restart the server to serve what is there"
            )

    def _now(self) -> dict[str, tuple[int, int, int]]:
        try:
            return FileStamps.of(self.path).stamps
        except (WeightsError, OSError):
            return {}


def _files(path: Path) -> list[Path]:
    gguf_path = find_gguf(path)
    if gguf_path is None:
        return sorted(file for pattern in _PATTERNS for file in path.glob(pattern))
    part = _PART.fullmatch(gguf_path.name)
    if part is None:
        return [gguf_path]
    return sorted(gguf_path.parent.glob(f"{_literal(part[1])}-?????-of-{part[2]}.gguf"))


def _literal(text: str) -> str:
    """`text` in a pattern of `glob`."""
    return re.sub(r"([\[*?])", r"[\1]", text)


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
