"""The base of every request body: unknown, unsupported and mistyped fields are refused by name, never ignored.

Owns the translation of pydantic's findings into `RequestError`. Knows no particular field.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from transom.errors import RequestError

_log = logging.getLogger(__name__)
_FIELD_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_]+)?")  # llama.cpp names two levels in one
# pydantic speaks of Python's types to somebody who wrote JSON.
_JSON_RULES = {"dict_type": "must be an object", "model_type": "must be an object"}
_BRANCH_NAMES = frozenset({"str", "int", "float", "bool", "list", "dict", "none"})


class StrictPart(BaseModel):
    """An object inside a body."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _null_equals_absence(cls, given: Any) -> Any:
        """Clients that send back what they were told send every optional member."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


class StrictBody(StrictPart):
    """A whole body. `UNSUPPORTED` names the fields that are known but not served, with the values that mean "off"."""

    UNSUPPORTED: ClassVar[Mapping[str, tuple[object, ...]]] = {}

    @classmethod
    def parse(cls, body: Mapping[str, Any], *, allow_unknown_fields: bool = False) -> Self:
        """The typed body. Null equals absence. Raises `RequestError` naming the first field at fault."""
        given = {name: value for name, value in body.items() if value is not None}
        known = cls.known_fields()
        accepted: dict[str, Any] = {}
        for name, value in given.items():
            if name in cls.UNSUPPORTED:
                cls._check_off(name, value)
            elif name in known:
                accepted[name] = value
            elif allow_unknown_fields:
                _log_ignored(name)
            else:
                raise _unknown_parameter(name, [*known, *cls.UNSUPPORTED])
        try:
            return cls.model_validate(accepted)
        except ValidationError as error:
            raise _first_finding(error) from None

    @classmethod
    def known_fields(cls) -> frozenset[str]:
        """Names and aliases of the served fields."""
        aliases = {field.alias for field in cls.model_fields.values() if field.alias}
        return frozenset(cls.model_fields) | aliases

    @classmethod
    def _check_off(cls, name: str, value: object) -> None:
        if any(type(value) is type(off) and value == off for off in cls.UNSUPPORTED[name]):
            return
        raise RequestError(
            f"The parameter '{name}' is not supported by this server{_only(cls.UNSUPPORTED[name])}.",
            param=name,
            code="unsupported_parameter",
        )


_ignored_names: set[str] = set()
_MAX_REMEMBERED_NAMES = 256


def _log_ignored(name: str) -> None:
    """Once per name; bounded, because the names come from callers."""
    if name in _ignored_names or len(_ignored_names) >= _MAX_REMEMBERED_NAMES:
        return
    _ignored_names.add(name)
    _log.warning("ignoring the unknown request field %r", name[:64])


def _only(values: tuple[object, ...]) -> str:
    shown = [value for value in values if not isinstance(value, dict)]
    return f" (accepted: {', '.join(map(json.dumps, shown))})" if shown else ""


def _unknown_parameter(name: str, known: list[str]) -> RequestError:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return RequestError(f"Unknown parameter: '{name[:64]}'.{hint}", param=name[:64], code="unknown_parameter")


def _first_finding(error: ValidationError) -> RequestError:
    finding = min(error.errors(include_url=False, include_context=True), key=_rank)
    param = _path(finding["loc"]) or None
    match finding["type"]:
        case "missing":
            return RequestError(f"Missing required parameter: '{param}'.", param=param, code="missing_parameter")
        case "extra_forbidden":
            return RequestError(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
        case "value_error" if isinstance(inner := finding.get("ctx", {}).get("error"), RequestError):
            return inner
        case _:
            return RequestError(_message(param, finding), param=param)


def _rank(finding: ErrorDetails) -> int:
    """A missing required field is said last: what was given should be right first."""
    return finding["type"] == "missing"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif _FIELD_NAME.fullmatch(step) and step not in _BRANCH_NAMES:
            path += f".{step}" if path else step
    return path


def _message(param: str | None, finding: ErrorDetails) -> str:
    said = finding["msg"].removeprefix("Value error, ").replace(" after validation", "")
    reason = _JSON_RULES.get(finding["type"]) or said
    given = finding["input"]
    shown = f" (got {given!r})" if isinstance(given, bool | int | float) and len(repr(given)) <= 40 else ""
    subject = f"Invalid value for '{param}'" if param else "Invalid body"
    return f"{subject}: {reason[0].lower()}{reason[1:]}{shown}."
