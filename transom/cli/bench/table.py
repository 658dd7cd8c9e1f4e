"""A report for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from transom.cli.banner import size_text
from transom.cli.bench.report import Point, Report, Tiers
from transom.cli.tables import plain_table


def show_report(console: Console, report: Report) -> None:
    """What was measured, on what, and the figures."""
    for line in heading_lines(report):
        console.print(line)
    console.print(_table(report))


def heading_lines(report: Report) -> Iterator[str]:
    """Machine, version, command: what figures mean nothing without."""
    machine, model = report.machine, report.model
    date = report.date.replace("T", " ")
    yield (
        f"transom {report.version}, {date}: {machine.processor}, {machine.num_threads} threads on "
        f"{machine.num_cores} cores, {machine.instruction_set}, {size_text(machine.ram_bytes)} RAM at "
        f"{machine.memory_bytes_per_second / 1e9:.1f} GB/s, {machine.system}"
    )
    yield (
        f"{model.id}: {model.num_parameters / 1e6:.1f}M parameters, {model.dtype}, {size_text(model.weights_bytes)}; "
        f"KV {model.kv_dtype}, {size_text(model.kv_bytes_per_token)} per token; "
        f"context window {model.context_window}"
    )
    budgets = ", ".join(f"{_place(tiers)}: {_budget(report, tiers)}" for tiers in report.ram_bytes)
    yield f"KV budgets: {budgets}; medians of {report.num_rounds}; tokens per second"
    yield f"command: {report.command}"


def _budget(report: Report, tiers: Tiers) -> str:
    ram = f"{size_text(report.ram_bytes[tiers])} RAM"
    return ram if tiers is Tiers.RAM else f"{ram} and {size_text(report.ssd_bytes)} SSD"


def _place(tiers: Tiers) -> str:
    return "RAM" if tiers is Tiers.RAM else "RAM + SSD"


def _table(report: Report) -> Table:
    """Columns that would be empty are left out."""
    columns = dict(_columns(report))
    table = plain_table(*columns)
    for column in table.columns[2:]:
        column.justify = "right"
    for point in report.points:
        table.add_row(*(show(point) for show in columns.values()))
    return table


def _columns(report: Report) -> Iterator[tuple[str, Callable[[Point], str]]]:
    yield "KV IN", lambda point: _place(point.tiers)
    yield "STRATEGY", lambda point: point.strategy
    yield "DEPTH", lambda point: str(point.depth)
    yield f"PREFILL OF {report.num_prefill_tokens}", lambda point: rate_text(point.prefill.median)
    yield f"DECODE OF {report.num_decode_tokens}", lambda point: rate_text(point.decode.median)
    if any(point.decode_limit is not None for point in report.points):
        yield "MEMORY'S LIMIT", lambda point: _or_dash(point.decode_limit, rate_text)
        yield "OF IT", lambda point: _or_dash(point.share_of_limit, "{:.0%}".format)
    if any(point.num_forgotten_tokens for point in report.points):
        yield "FORGOTTEN", lambda point: str(point.num_forgotten_tokens)


def _or_dash(value: float | None, text: Callable[[float], str]) -> str:
    return "-" if value is None else text(value)


def rate_text(rate: float) -> str:
    """Three digits are what a measurement is worth."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"
