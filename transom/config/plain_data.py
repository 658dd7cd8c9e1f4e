"""Frozen dataclasses to plain data and back, strictly: what travels over the channel is exactly what was meant.

Knows the types that settings are made of (scalars, enums of strings, paths, tuples, None, nested dataclasses).
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from transom.errors import ConfigError

__all__ = ["from_plain", "to_plain"]

T = TypeVar("T")


def to_plain(instance: Any) -> dict[str, Any]:
    """Fields by name, as None, bool, int, float, str, list and dict: msgpack and JSON carry them."""
    return {field.name: _encode(getattr(instance, field.name)) for field in dataclasses.fields(instance)}


def from_plain(cls: type[T], plain: object) -> T:
    """An instance of the dataclass `cls`. Raises ConfigError for missing, unknown and wrongly typed fields."""
    hints = get_type_hints(cls)
    if not isinstance(plain, dict) or plain.keys() != hints.keys():
        raise ConfigError(f"{cls.__name__}: expects exactly the fields {', '.join(hints)}")
    return cls(**{name: _decode(hint, plain[name], f"{cls.__name__}.{name}") for name, hint in hints.items()})


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_plain(value)
    if isinstance(value, tuple):
        return [_encode(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _decode(hint: Any, value: Any, name: str) -> Any:
    if isinstance(hint, UnionType):
        (inner,) = (each for each in get_args(hint) if each is not type(None))
        return None if value is None else _decode(inner, value, name)
    if get_origin(hint) is tuple:
        _check_type(value, list, name)
        return tuple(_decode(get_args(hint)[0], each, name) for each in value)
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value)  # type: ignore[arg-type]
    if issubclass(hint, (Enum, Path)):
        _check_type(value, str, name)
        return _construct(hint, value, name)
    _check_type(value, hint, name)
    return value


def _construct(hint: Any, value: str, name: str) -> Any:
    try:
        return hint(value)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _check_type(value: object, expected: type, name: str) -> None:
    if type(value) is not expected:
        raise ConfigError(f"{name}: is {value!r}, must be of type {expected.__name__}")
