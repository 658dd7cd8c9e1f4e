"""Errors as plain data: a fixed table of classes that may cross between worker and API process.

An exception that is not in the table crosses as its nearest base in it; one that is none of ours becomes an EngineError
with a fixed message, because the details belong into the log.
"""

from __future__ import annotations

from dataclasses import dataclass

from transom import errors
from transom.errors import ChannelError, TransomError

# class -> the attributes that travel beside the message, as keyword arguments of the constructor
_FIELDS: dict[type[TransomError], tuple[str, ...]] = {
    errors.TransomError: (),
    errors.ConfigError: (),
    errors.UnsupportedModelError: (),
    errors.WeightsError: (),
    errors.TokenizerError: (),
    errors.RequestError: ("param", "code"),
    errors.BudgetExceededError: ("param",),
    errors.ContextLengthExceededError: ("num_prompt_tokens", "max_tokens", "context_window", "param"),
    errors.UnavailableError: ("retry_after_seconds",),
    errors.ModelLoadingError: ("retry_after_seconds",),
    errors.QueueFullError: ("retry_after_seconds",),
    errors.EngineRestartingError: ("retry_after_seconds",),
    errors.DrainingError: ("retry_after_seconds",),
    errors.EngineError: (),
    errors.ChannelError: (),
}
_BY_NAME = {error.__name__: error for error in _FIELDS}
_WRITES_ITS_OWN_MESSAGE = frozenset({errors.ContextLengthExceededError})


@dataclass(frozen=True, slots=True)
class ErrorData:
    """What is left of an exception on the wire."""

    type: str
    message: str
    fields: dict[str, str | int | float | None]


def error_to_data(error: BaseException) -> ErrorData:
    """Never fails; the class is the nearest one in the table."""
    crossing = next((base for base in type(error).__mro__ if base in _FIELDS), None)
    if crossing is None:
        return ErrorData(errors.EngineError.__name__, "The engine failed; the log says why.", {})
    return ErrorData(crossing.__name__, str(error), {name: getattr(error, name) for name in _FIELDS[crossing]})


def error_from_data(data: ErrorData) -> TransomError:
    """The exception to raise; ChannelError when the data name no class of the table, or not its fields."""
    error = _BY_NAME.get(data.type)
    if error is None or data.fields.keys() != set(_FIELDS[error]):
        raise ChannelError(f"no error of type {data.type!r} crosses the channel like this")
    arguments = () if error in _WRITES_ITS_OWN_MESSAGE else (data.message,)
    return error(*arguments, **data.fields)
