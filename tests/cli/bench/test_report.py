"""The report as table and JSON."""

from __future__ import annotations

import io
import json

from rich.console import Console

from tests.cli.bench.reports import point, report
from transom.cli.bench.report import Report, Tiers
from transom.cli.bench.table import rate_text, show_report


def shown(given: Report) -> list[str]:
    console = Console(file=io.StringIO(), width=400, markup=False, highlight=False)
    show_report(console, given)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_table_says_machine_version_command_and_medians() -> None:
    lines = shown(report(point(), point(Tiers.RAM_AND_SSD, depth=4096)))
    assert lines[0].startswith("transom 1.2.3, 2026-11-25 03:13+00:00: Abacus, 1 threads on 2 cores, portable, 8 GiB")
    assert "8 MiB RAM and 256 MiB SSD; medians of 3" in lines[2]
    assert lines[3] == "command: transom bench tiny"
    assert [line.split("  ") for line in lines[4:5]] != []
    assert lines[5].split() == ["RAM", "full", "0", "200", "15.0"]
    assert lines[6].split() == ["RAM", "+", "SSD", "full", "4096", "200", "4111"]


def test_limits_and_what_was_forgotten_have_columns_where_there_are_any() -> None:
    bare, full = shown(report(point())), shown(report(point(decode_limit=30.0, num_forgotten_tokens=7), point()))
    assert "LIMIT" not in bare[4] and "FORGOTTEN" not in bare[4]
    assert full[5].split()[-3:] == ["30.0", "50%", "7"]
    assert full[6].split()[-3:] == ["-", "-", "0"]


def test_json_holds_all_rounds_and_the_report_can_be_written() -> None:
    plain = json.loads(json.dumps(report(point(decode_limit=30.0)).as_json()))
    assert plain["points"][0]["decode_tokens_per_second"] == {"median": 15.0, "rounds": [10.0, 20.0, 15.0]}
    assert plain["points"][0]["decode_limit_tokens_per_second"] == 30.0
    assert plain["ram_bytes"] == {"ram": 2**24, "ram+ssd": 2**23}
    assert plain["machine"]["processor"] == "Abacus"
    assert plain["version"] == "1.2.3"


def test_rates_have_three_digits() -> None:
    assert [rate_text(rate) for rate in (1234.5, 99.96, 10.04, 1.234)] == ["1234", "100.0", "10.0", "1.23"]
