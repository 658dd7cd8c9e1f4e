"""What is shown at the start is right and can be pasted."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.server.served import REPORT, RecitingEngine, served_model
from transom.cli.banner import curl_line, model_table, show_failures, size_text
from transom.config.features import ShortConvolution
from transom.config.model_config import LayerKind
from transom.errors import WeightsError
from transom.registry import FailedModel


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (2560, "2.5 KiB"),
        (2**20, "1 MiB"),
        (5 * 2**30, "5 GiB"),
        (2**41, "2048 GiB"),
    ],
)
def test_sizes_are_in_the_largest_fitting_unit(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text


def test_the_table_shows_windows_costs_and_budgets() -> None:
    console = Console(file=io.StringIO(), width=300)
    console.print(model_table([served_model()]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for cell in ("tiny", "256 tokens", "full", "64 B (f32)", "1 MiB", "4 KiB"):
        assert cell in shown
    row = shown.splitlines()[1]
    assert f"  {REPORT.num_full_requests}  " in row
    assert size_text(REPORT.ram_bytes) in row


def test_the_table_shows_what_the_convolutions_of_a_sequence_take() -> None:
    served = served_model()
    hybrid = replace(
        served.model_config,
        layer_types=(LayerKind.FULL_ATTENTION, LayerKind.SHORT_CONV),
        short_conv=ShortConvolution(3),
    )
    console = Console(file=io.StringIO(), width=300)
    console.print(model_table([replace(served, model_config=hybrid)]))
    states = 2 * 2 * hybrid.hidden_size * 4
    assert f"64 B (f32) + {states} B per sequence" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_shows_the_cold_tier_and_the_longest_request_that_the_budgets_hold() -> None:
    engine = RecitingEngine(report=replace(REPORT, max_sequence_tokens=200))
    served = served_model(engine)
    served = replace(
        served, engine_config=replace(served.engine_config, ssd_path=Path("cold"), max_ssd_bytes=3 * 2**30)
    )
    console = Console(file=io.StringIO(), width=300)
    console.print(model_table([served]))
    row = console.file.getvalue().splitlines()[1]  # type: ignore[attr-defined]
    assert row.split("  ")[0] == "tiny"
    assert "200 tokens" in row
    assert "3 GiB" in row


@pytest.mark.parametrize("model", ["tolstoy", "recall", "it's-mine"])
def test_the_curl_line_is_one_shell_command_with_a_json_body(model: str) -> None:
    words = shlex.split(curl_line(model, "http://127.0.0.1:9632", needs_key=False))
    assert words[:2] == ["curl", "http://127.0.0.1:9632/v1/completions"]
    assert json.loads(words[words.index("-d") + 1])["model"] == model


def test_the_curl_line_carries_a_key_where_one_is_needed() -> None:
    assert "$TRANSOM_API_KEY" in curl_line("m", "http://127.0.0.1:1", needs_key=True)


def test_a_failure_is_one_line() -> None:
    console = Console(file=io.StringIO(), width=1000)
    show_failures(console, [FailedModel(served_model().entry, WeightsError("a\nb"))])
    assert console.file.getvalue() == "transom: the model tiny is not served: a b\n"  # type: ignore[attr-defined]
