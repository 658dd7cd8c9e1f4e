"""The request field `cache`: which tokens the attention of this request may forget. Knows no cache.

What the field leaves open is as the model's registry entry says. Whether the result fits the budgets is decided by
admission, like every other request.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from transom.config.cache_options import resolve_cache
from transom.config.registry_config import CacheConfig
from transom.errors import ConfigError, RequestError
from transom.registry import ServedModel
from transom.request import CacheOptions
from transom.server.strict_body import StrictPart

_MAX_TOKENS = 2**31 - 1
_STRATEGIES_WITH = {"window_size": ("sliding_window", "keep_first", "fifo"), "keep_first": ("keep_first",)}


class CacheField(StrictPart):
    """`"cache": {"strategy": ..., "window_size": ..., "keep_first": ...}`; each part may be absent or null."""

    strategy: Literal["full", "fifo", "sliding_window", "keep_first", "adaptive"] | None = None
    window_size: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = None
    keep_first: Annotated[int, Field(ge=0, le=_MAX_TOKENS)] | None = None


def cache_options(served: ServedModel, field: CacheField | None) -> CacheOptions:
    """What the request asks for, or else the model's own. Raises `RequestError` for sizes that cannot be."""
    if field is None:
        return served.engine_config.cache
    try:
        return resolve_cache(_merged(served.entry.cache, field), served.llm.context_window)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RequestError(f"Invalid value for 'cache': {reason}.", param="cache") from None
    except ConfigError as error:
        raise RequestError(f"Invalid value for 'cache': {error}.", param="cache") from None


def _check_sizes(model: CacheConfig, given: dict[str, Any]) -> None:
    """Raises ConfigError for a size without a strategy when the model's own has no use for it: it would be ignored."""
    for size in given:
        if model.strategy not in _STRATEGIES_WITH[size]:
            named = " or ".join(_STRATEGIES_WITH[size])
            raise ConfigError(f"{size} needs a strategy, {named}; the model's own is {model.strategy}")


def _merged(model: CacheConfig, field: CacheField) -> CacheConfig:
    """The model's section with the request's words in it, as if the registry file had said so."""
    given: dict[str, Any] = field.model_dump(exclude_none=True)
    if field.strategy is None:
        _check_sizes(model, given)
    merged = {**model.model_dump(exclude_unset=True), **given}
    if merged.get("strategy") != "keep_first" and "keep_first" not in given:
        merged.pop("keep_first", None)  # the model's own number says nothing about another strategy
    return CacheConfig.model_validate(merged)
