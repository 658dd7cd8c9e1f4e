"""From the section `cache` of a registry entry to the `CacheOptions` that a sequence is opened with. Knows no cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transom.errors import ConfigError
from transom.request import CacheOptions, CacheStrategy

if TYPE_CHECKING:
    from transom.config.registry_config import CacheConfig

__all__ = ["resolve_cache"]

_WINDOWED = frozenset({CacheStrategy.SLIDING_WINDOW, CacheStrategy.KEEP_FIRST})


def resolve_cache(config: CacheConfig, context_window: int) -> CacheOptions:
    """The strategy with the sizes it uses, and no others.

    Raises ConfigError for a window larger than the context. A window that nobody wrote and no strategy uses is not
    looked at; `fifo` has none unless it is written, for the budgets alone may decide.
    """
    strategy = CacheStrategy(config.strategy)
    window_size = config.window_size if _is_given(config, strategy) else None
    if window_size is not None and window_size > context_window:
        raise ConfigError(
            f"cache.window_size is {window_size}, must be at most the context window, which is {context_window}"
        )
    return CacheOptions(
        strategy,
        window_size=window_size if strategy in _WINDOWED or strategy is CacheStrategy.FIFO else None,
        keep_first=config.keep_first if strategy is CacheStrategy.KEEP_FIRST else 0,
    )


def _is_given(config: CacheConfig, strategy: CacheStrategy) -> bool:
    return strategy in _WINDOWED or "window_size" in config.model_fields_set
