"""Typed reading of one JSON object of a model's settings. Knows types, bounds and how to say what is wrong.

JSON's `true` is no integer, `32.0` is no integer, NaN is no number. An absent key takes the default; where `null` is
legal is the caller's choice: the `optional_` readers give None for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transom.config.json_file import read_json_object
from transom.errors import ConfigError

__all__ = ["REQUIRED", "Settings", "shown"]

_SHOWN_CHARACTERS = 80
_LEAST_FACTOR, _MOST_FACTOR = 1e-6, 1e6


class _Required:
    """The default of a key that has none."""


REQUIRED: Final = _Required()


@dataclass(frozen=True, slots=True)
class Settings:
    """One object and where it came from. Every reader raises ConfigError naming file, key, value and rule."""

    source: str
    values: Mapping[str, Any]
    prefix: str = ""

    @classmethod
    def of_file(cls, path: Path) -> Settings:
        """Reads a file; see `read_json_object`."""
        return cls(str(path), read_json_object(path))

    def has(self, key: str) -> bool:
        """The key is present and not null."""
        return self.values.get(key) is not None

    def get(self, key: str) -> Any:
        """The raw value, None when absent."""
        return self.values.get(key)

    def integer(self, key: str, default: int | _Required = REQUIRED, *, low: int, high: int) -> int:
        """An integer of `low .. high`."""
        value = self._lookup(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.error(key, value, f"must be an integer from {low} to {high}")
        return value

    def optional_integer(self, key: str, default: int | None, *, low: int, high: int) -> int | None:
        """As `integer`, and None for null."""
        if self.values.get(key, default) is None:
            return None
        return self.integer(key, REQUIRED if default is None else default, low=low, high=high)

    def number(
        self, key: str, default: float | _Required = REQUIRED, *, above: float = -math.inf, up_to: float = math.inf
    ) -> float:
        """A finite number greater than `above`, at most `up_to`."""
        value = self._lookup(key, default)
        if type(value) not in (int, float) or not _is_finite(value) or not above < value <= up_to:
            raise self.error(key, value, _number_rule(above, up_to))
        return float(value)

    def optional_number(
        self, key: str, default: float | None = None, *, above: float = -math.inf, up_to: float = math.inf
    ) -> float | None:
        """As `number`; absent and null take the default."""
        if not self.has(key):
            return default
        return self.number(key, above=above, up_to=up_to)

    def factor(self, key: str, default: float | _Required = REQUIRED) -> float:
        """A positive number within bounds that no real model comes near: what is beyond, makes 0 or infinity in f32."""
        return self.number(key, default, above=_LEAST_FACTOR, up_to=_MOST_FACTOR)

    def optional_factor(self, key: str, default: float | None = None) -> float | None:
        """As `factor`; absent and null take the default."""
        return self.optional_number(key, default, above=_LEAST_FACTOR, up_to=_MOST_FACTOR)

    def share(self, key: str, *, up_to: float) -> float | None:
        """A number from 0, included; None when absent or null."""
        value = self.optional_number(key, up_to=up_to)
        if value is not None and value < 0:
            raise self.error(key, value, f"must be a number from 0 to {up_to:g}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._lookup(key, default)
        if type(value) is not bool:
            raise self.error(key, value, "must be true or false")
        return value

    def text(self, key: str, default: str | _Required = REQUIRED) -> str:
        """A string."""
        value = self._lookup(key, default)
        if type(value) is not str:
            raise self.error(key, value, "must be a string")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings; absent and null are empty."""
        value = self.values.get(key)
        if value is None:
            return ()
        if type(value) is not list or not all(type(each) is str for each in value):
            raise self.error(key, value, "must be a list of strings")
        return tuple(value)

    def section(self, key: str) -> Settings | None:
        """A nested object; None when absent, null or empty."""
        value = self.values.get(key)
        if value is None or value == {}:
            return None
        if type(value) is not dict:
            raise self.error(key, value, "must be an object")
        return Settings(self.source, value, f"{self.prefix}{key}.")

    def error(self, key: str, value: object, rule: str) -> ConfigError:
        """The error to raise for one key."""
        return ConfigError(f"{self.source}: {self.prefix}{key} is {shown(value)}, {rule}")

    def _lookup(self, key: str, default: object) -> Any:
        value = self.values.get(key, default)
        if value is REQUIRED:
            raise ConfigError(f"{self.source}: {self.prefix}{key} is missing")
        return value


def shown(value: object) -> str:
    """The value as its author wrote it, cut to a readable length."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        return False


def _number_rule(above: float, up_to: float) -> str:
    bounds = [f"greater than {above:g}"] if above > -math.inf else []
    bounds += [f"at most {up_to:g}"] if up_to < math.inf else []
    return " ".join(["must be a finite number", " and ".join(bounds)]).rstrip()
