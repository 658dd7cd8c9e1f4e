"""Where files of this user belong, by the XDG base directory specification. Reads the environment; makes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from transom.errors import ConfigError

_MODELS_VARIABLE = "TRANSOM_MODELS"


def models_directory() -> Path:
    """Of pulled models: `TRANSOM_MODELS`, or below the user's data directory. Raises `ConfigError` without a home."""
    if given := os.environ.get(_MODELS_VARIABLE):
        return _expanded(given).absolute()
    return _base("XDG_DATA_HOME", ".local/share") / "transom" / "models"


def state_directory() -> Path:
    """Of what the program remembers of its user. Raises `ConfigError` without a home."""
    return _base("XDG_STATE_HOME", ".local/state") / "transom"


def _base(variable: str, default: str) -> Path:
    """The specification has relative paths ignored."""
    given = Path(os.environ.get(variable, ""))
    return given if given.is_absolute() else _expanded("~") / default


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"there is no home directory; set {_MODELS_VARIABLE} and XDG_STATE_HOME") from None
