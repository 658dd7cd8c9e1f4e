"""`ModelStore`: the directory of pulled models, one directory each. Knows names and places, no content.

ROOT/NAME/              a whole model; comes into being by one rename
ROOT/.pulling/NAME/     what has come so far of one that is being pulled
ROOT/.pulling/NAME.lock held by whoever pulls it
"""

from __future__ import annotations

import re
from pathlib import Path

from transom.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_UNFIT = re.compile(r"[^a-z0-9._-]+")
MAX_NAME_LENGTH = 128
_PULLING = ".pulling"


class ModelStore:
    """The models below `root`, which need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str) -> Path | None:
        """The directory of a model; None for names that no model can have, and where there is none."""
        if _NAME.fullmatch(name) is None:
            return None
        directory = self.root / name
        return directory if directory.is_dir() and not directory.is_symlink() else None

    def names(self) -> list[str]:
        """Of all models, in order."""
        try:
            found = [path.name for path in self.root.iterdir()]
        except OSError:
            return []
        return sorted(name for name in found if self.find(name) is not None)

    def home(self, name: str) -> Path:
        """Where a model lies when it is whole."""
        return self.root / name

    def staging(self, name: str) -> Path:
        """Where its files gather until then."""
        return self.root / _PULLING / name

    def outdated(self, name: str) -> Path:
        """Where an older one waits for its removal."""
        return self.root / _PULLING / f"{name}.old"

    def lock(self, name: str) -> Path:
        """The file that whoever pulls it holds."""
        return self.root / _PULLING / f"{name}.lock"


def check_name(name: str) -> str:
    """`name`, if a model may have it. Raises `ConfigError`."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"the name {name[:64]!r} must have small letters, digits and ._- only, and begin with one of the first two"
        )
    return name


def name_from(text: str) -> str:
    """The name that a hub's model or file gets here: small letters, and - for whatever a name may not have."""
    return check_name(_UNFIT.sub("-", text.lower()).strip("-._")[:MAX_NAME_LENGTH])
