"""Errors of our tree cross the border as what they are."""

from __future__ import annotations

import pytest

from transom import errors
from transom.engine.channel import Refused, decode, encode
from transom.engine.error_data import ErrorData, error_from_data, error_to_data


class OutOfDisk(errors.QueueFullError):
    """A class that the table does not know."""


EXAMPLES = [
    errors.ConfigError("a"),
    errors.UnsupportedModelError("b"),
    errors.WeightsError("c"),
    errors.EngineError("d"),
    errors.RequestError("e", param="prompt", code="odd"),
    errors.RequestError("e", param=None, code=None),
    errors.BudgetExceededError("f", param="max_tokens"),
    errors.ContextLengthExceededError(num_prompt_tokens=3, max_tokens=4, context_window=5, param="prompt"),
    errors.QueueFullError("g", retry_after_seconds=2.5),
    errors.EngineRestartingError("h"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_crosses_with_class_message_and_fields(error: errors.TransomError) -> None:
    frame = encode(Refused("r", error_to_data(error)))
    message = decode(frame[4:])
    assert isinstance(message, Refused)
    arrived = error_from_data(message.error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_an_unknown_class_crosses_as_its_nearest_known_base() -> None:
    arrived = error_from_data(error_to_data(OutOfDisk("full", retry_after_seconds=3.0)))
    assert type(arrived) is errors.QueueFullError
    assert str(arrived) == "full"


def test_a_foreign_exception_keeps_its_details_to_itself() -> None:
    arrived = error_from_data(error_to_data(KeyError("secret")))
    assert type(arrived) is errors.EngineError
    assert "secret" not in str(arrived)


@pytest.mark.parametrize(
    "data",
    [
        ErrorData("SystemExit", "x", {}),
        ErrorData("RequestError", "x", {}),
        ErrorData("EngineError", "x", {"param": None}),
    ],
)
def test_data_that_describe_no_error_of_the_table_are_refused(data: ErrorData) -> None:
    with pytest.raises(errors.ChannelError):
        error_from_data(data)
