"""What can be set, and what is refused with the rule."""

from __future__ import annotations

import pytest

from transom.cli.answers import AnswerSettings
from transom.cli.terminal.settings import shown, with_number, with_strategy
from transom.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("temperature", "default", None),
        ("seed", "-3", -3),
        ("seed", "none", None),
        ("max_tokens", "0", 0),
        ("top_k", "40", 40),
    ],
)
def test_a_number_is_set_or_given_back_to_the_model(name: str, text: str, value: float | None) -> None:
    settings = with_number(AnswerSettings(1, 1.0, 1.0, 1, 0.1, 1), name, text)
    assert getattr(settings, name) == value


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("temperature", "3", "temperature is a number from 0 to 2, or default"),
        ("temperature", "nan", "from 0 to 2"),
        ("temperature", "warm", "from 0 to 2"),
        ("top_p", "1.1", "from 0 to 1"),
        ("max_tokens", "1.5", "max_tokens is a whole number"),
        ("seed", "9" * 5000, "seed is a whole number"),
        ("colour", "1", "is no setting; these are: max_tokens"),
        ("cache", "1", "is no setting"),
    ],
)
def test_anything_else_is_refused_with_the_rule(name: str, text: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        with_number(AnswerSettings(), name, text)


def test_every_setting_is_shown() -> None:
    rows = shown(AnswerSettings(seed=7), "Be kind.")
    assert (rows["seed"], rows["max_tokens"], rows["system"]) == ("7", "default (512)", "Be kind.")


def test_a_strategy_takes_its_sizes_and_default_takes_it_away() -> None:
    settings = with_strategy(AnswerSettings(), ["keep_first", "512", "64"])
    assert settings.cache is not None
    assert settings.cache.model_dump() == {"strategy": "keep_first", "window_size": 512, "keep_first": 64}
    assert with_strategy(settings, ["default"]).cache is None


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["nothing"], "is no strategy; these are: full"),
        (["fifo", "x"], "followed by the size of its window"),
        (["fifo", "1", "2", "3"], "followed by the size of its window"),
        (["fifo", "0"], "greater than or equal to 1"),
        (["fifo", "²"], "followed by the size of its window"),
    ],
)
def test_sizes_that_cannot_be_are_refused(words: list[str], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        with_strategy(AnswerSettings(), words)
