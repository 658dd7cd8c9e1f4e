"""Dataclasses to plain msgpack-able values and back, checked strictly against their type hints.

The one rule of what may cross a process border: dataclasses, enums of strings, paths, integers, floats, strings,
booleans, None, tuples, and dictionaries of these. A dataclass travels as the list of its fields in order, a
`Sequence[int]` packed, as the bytes of `TokenIds`. Nothing is ever constructed that the expected type does not name.
Knows no frames and no messages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from transom.errors import ChannelError
from transom.request import TokenIds

T = TypeVar("T")

Convert = Callable[[Any], Any]

_SCALARS = frozenset({int, float, str, bool, NoneType})


def to_plain(value: object) -> Any:
    """Lists, dictionaries and scalars for `value`; raises ChannelError for a type that may not cross."""
    if isinstance(value, StrEnum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return _tuple_to_plain(value)
    if isinstance(value, dict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, TokenIds):
        return value.packed.tobytes()
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [to_plain(getattr(value, name)) for name in _field_names(type(value))]
    raise ChannelError(f"a {type(value).__name__} may not cross the process border")


def from_plain(expected: type[T], plain: object) -> T:
    """The value of type `expected` that `plain` describes; raises ChannelError when it does not describe one."""
    return cast(T, _converter(cast(Hashable, expected))(plain))


def _tuple_to_plain(value: tuple[object, ...]) -> list[Any]:
    """Outputs are many, and their token ids need no look at each."""
    if all(type(item) is int for item in value):
        return list(value)
    return [to_plain(item) for item in value]


@cache
def _field_names(dataclass: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(dataclass))


@cache
def _converter(expected: Hashable) -> Convert:
    """The checking conversion for one type, made once."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, UnionType):
        return _union(arguments)
    if origin is tuple:
        return _tuple(arguments)
    if origin is Sequence and arguments == (int,):
        return _token_ids
    if origin is dict:
        return _dictionary(*arguments)
    if is_dataclass(expected):
        return _dataclass(cast(type, expected))
    if isinstance(expected, type) and issubclass(expected, StrEnum | Path):
        return _from_string(expected)
    if expected in _SCALARS:
        return _scalar(frozenset({cast(type, expected)}))
    raise TypeError(f"{expected!r} is not a type that may cross the process border")


def _from_string(expected: Callable[[str], Any]) -> Convert:
    def convert(plain: Any) -> Any:
        try:
            return expected(plain) if type(plain) is str else _refuse(repr(expected), plain)
        except ValueError:
            return _refuse(repr(expected), plain)

    return convert


def _union(arguments: tuple[Any, ...]) -> Convert:
    """Either a choice of scalars, or one type that may be None."""
    if _SCALARS.issuperset(arguments):
        return _scalar(frozenset(arguments))
    [inner] = [argument for argument in arguments if argument is not NoneType]
    convert_inner = _converter(inner)

    def convert(plain: Any) -> Any:
        return None if plain is None else convert_inner(plain)

    return convert


def _scalar(choices: frozenset[type]) -> Convert:
    accepted = choices | {int} if float in choices else choices

    def convert(plain: Any) -> Any:
        return plain if type(plain) in accepted else _refuse(" or ".join(sorted(c.__name__ for c in choices)), plain)

    return convert


def _tuple(arguments: tuple[Any, ...]) -> Convert:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _uniform_tuple(arguments[0])
    converters = [_converter(argument) for argument in arguments]

    def convert(plain: Any) -> Any:
        items = _list_of(len(converters), plain)
        return tuple(convert_item(item) for convert_item, item in zip(converters, items, strict=True))

    return convert


def _uniform_tuple(argument: Any) -> Convert:
    convert_item = _converter(argument)

    def convert(plain: Any) -> Any:
        if type(plain) is not list:
            _refuse("list", plain)
        if argument is int and all(type(item) is int for item in plain):
            return tuple(plain)
        return tuple(convert_item(item) for item in plain)

    return convert


def _token_ids(plain: Any) -> TokenIds:
    try:
        return TokenIds.unpack(plain) if type(plain) is bytes else _refuse("bytes", plain)
    except ValueError as error:
        raise ChannelError(str(error)) from None


def _dictionary(key_type: Any, value_type: Any) -> Convert:
    convert_key, convert_value = _converter(key_type), _converter(value_type)

    def convert(plain: Any) -> Any:
        if type(plain) is not dict:
            _refuse("map", plain)
        return {convert_key(key): convert_value(value) for key, value in plain.items()}

    return convert


def _dataclass(expected: type) -> Convert:
    hints = get_type_hints(expected)
    converters = [_converter(hints[name]) for name in _field_names(expected)]

    def convert(plain: Any) -> Any:
        items = _list_of(len(converters), plain)
        return expected(*[convert_item(item) for convert_item, item in zip(converters, items, strict=True)])

    return convert


def _list_of(length: int, plain: Any) -> list[Any]:
    if type(plain) is not list or len(plain) != length:
        _refuse(f"list of {length}", plain)
    return cast(list[Any], plain)


def _refuse(expected: str, plain: object) -> Any:
    raise ChannelError(f"expected {expected}, got {type(plain).__name__}")
