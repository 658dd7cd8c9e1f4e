"""pydantic's findings in the words of this project: file, key path, value, rule, and the nearest known key."""

from __future__ import annotations

import difflib
import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from transom.config.settings import shown

__all__ = ["describe"]

# pydantic speaks of Python's types to somebody who wrote JSON.
_TYPE_RULES = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "model_type": "must be an object",
    "path_type": "must be a path",
    "string_type": "must be a string",
    "tuple_type": "must be a list",
}


def describe(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """One line for each problem, e.g. `config.json: models[0].tier_config.kv_cache_ram_mb is -5, must be ...`."""
    return "\n".join(f"{source}: {_line(detail, model)}" for detail in error.errors(include_url=False))


def _line(detail: ErrorDetails, model: type[BaseModel]) -> str:
    path = _key_path(detail["loc"])
    match detail["type"]:
        case "extra_forbidden":
            return f"{path} is not a known key{_nearest(detail['loc'], model)}"
        case "missing":
            return f"{path} is missing"
        case "value_error" if isinstance(detail["input"], dict):  # a rule between keys
            return f"{path}: {_rule(detail)}" if path else _rule(detail)
        case _:
            return f"{path} is {shown(detail['input'])}, {_rule(detail)}"


def _key_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    return path


def _rule(detail: ErrorDetails) -> str:
    """Every rule begins with `must`, where pydantic has `Input should be ...` and `Value error, ...`."""
    if detail["type"] in _TYPE_RULES:
        return _TYPE_RULES[detail["type"]]
    return re.sub(r"^(Value error, |(Input|String) should (?=\w))", _begin, detail["msg"])


def _begin(match: re.Match[str]) -> str:
    return "" if match[0].startswith("Value") else "must "


def _nearest(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    known = list(_section(location[:-1], model).model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"


def _section(location: tuple[int | str, ...], model: type[BaseModel]) -> type[BaseModel]:
    """The pydantic model that the location's object was checked against."""
    for step in location:
        if isinstance(step, str) and step in model.model_fields:
            model = next(_models_in(model.model_fields[step].annotation), model)
    return model


def _models_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
