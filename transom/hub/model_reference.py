"""What a user names on a hub: `OWNER/NAME`, a quantisation or a file of it, and a revision. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from transom.errors import ConfigError

_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_REFERENCE = re.compile(rf"(?P<repository>{_PART}/{_PART})(?:/(?P<file>[^:]+)|:(?P<quantization>[\w.-]+))?", re.ASCII)
_FILE = re.compile(r"[\w.+-]+(?:/[\w.+-]+){0,3}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)
_PAGES = re.compile(r"(?:https://)?(?:www\.)?(?:huggingface\.co|hf\.co)/")
DEFAULT_REVISION = "main"


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model of a hub, or one of its GGUF files."""

    repository: str
    """OWNER/NAME."""
    quantization: str | None = None
    file: str | None = None
    revision: str = DEFAULT_REVISION
    """A branch, a tag or a commit."""

    @classmethod
    def parse(cls, text: str, revision: str = DEFAULT_REVISION) -> ModelReference:
        """From `OWNER/NAME[:QUANTIZATION | /FILE]`, also with the address of the hub's pages before it.

        Raises `ConfigError`.
        """
        match = _REFERENCE.fullmatch(_PAGES.sub("", text, count=1))
        if match is None or ".." in text or "--" in match["repository"] or not is_plain_path(match["file"] or "x"):
            raise ConfigError(
                f"{text[:200]!r} is not a model of a hub: OWNER/NAME, OWNER/NAME:Q4_K_M or OWNER/NAME/FILE.gguf"
            )
        if _REVISION.fullmatch(revision) is None or ".." in revision:
            raise ConfigError(f"{revision[:64]!r} is not a branch, tag or commit")
        return cls(match["repository"], match["quantization"], match["file"], revision)

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self.repository}/{self.file}"
        return self.repository if self.quantization is None else f"{self.repository}:{self.quantization}"


def is_plain_path(path: str) -> bool:
    """Whether a path of a hub's file is relative, leads nowhere else, and has plain characters only."""
    return _FILE.fullmatch(path) is not None and not any(part.startswith(".") for part in path.split("/"))
