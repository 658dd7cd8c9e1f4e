"""pydantic's findings in the words of this project: file, key path, value, rule, and the nearest known key."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from transom.config.settings import shown

__all__ = ["describe"]

_JSON_WORDS = {
    "must be a valid boolean": "must be true or false",
    "must be a valid dictionary": "must be an object",
    "must be a valid integer": "must be an integer",
    "must be a valid number": "must be a number",
    "must be a valid tuple": "must be a list",
    "must be a valid string": "must be a string",
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
    """pydantic writes `Input should be ...` and `Value error, ...`; here every rule begins with `must`."""
    message = detail["msg"].removeprefix("Value error, ")
    for start in ("Input should", "String should"):
        message = message.replace(start, "must", 1) if message.startswith(start) else message
    return _JSON_WORDS.get(message, message)


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
