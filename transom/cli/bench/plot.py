"""A report as a picture: prefill and decode by depth, a line for each series. Needs matplotlib (`transom[plot]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from transom.cli.bench.report import Point, Report, Tiers, series_name
from transom.cli.bench.table import heading_lines

_SIZE_INCHES = (9.0, 4.2)
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small files, and searchable
    "svg.hashsalt": "transom",  # the same report gives the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_LINEAR_DEPTH = 1024  # depths below it are drawn evenly: 0 has no logarithm


def draw(report: Report, path: Path, file_format: str) -> None:
    """Writes `path` as "svg" or "png". OSError when that fails."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        prefill, decode = figure.subplots(1, 2)
        _draw_panel(prefill, report, f"prefill of {report.num_prefill_tokens} tokens", "prefill")
        _draw_panel(decode, report, f"decode of {report.num_decode_tokens} tokens", "decode")
        decode.legend(frameon=False, fontsize=8)
        figure.suptitle("\n".join(_caption(report)), fontsize=7.5, x=0.01, ha="left")
        metadata = {"Date": None} if file_format == "svg" else None
        figure.savefig(path, format=file_format, dpi=150, metadata=metadata)


def _caption(report: Report) -> list[str]:
    return [line if len(line) < 170 else f"{line[:169]}…" for line in heading_lines(report)]


def _draw_panel(axes: Any, report: Report, title: str, kind: str) -> None:
    strategies = [point.strategy for point in report.points]
    for (tiers, strategy), points in report.series().items():
        depths = [point.depth if kind == "prefill" else point.decode_depth for point in points]
        rates = [_rate(point, kind) for point in points]
        style = "o-" if tiers is Tiers.RAM else "s--"
        axes.plot(depths, rates, style, markersize=4, label=series_name(tiers, strategy, strategies))
    if kind == "decode":
        _draw_limit(axes, report)
    axes.set_xscale("symlog", base=2, linthresh=_LINEAR_DEPTH)
    depths = sorted({point.depth for point in report.points})
    axes.set_xticks(depths, [str(depth) for depth in depths], minor=False)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.set_xlabel("tokens of context")
    axes.set_ylabel("tokens per second")


def _rate(point: Point, kind: str) -> float:
    return point.prefill.median if kind == "prefill" else point.decode.median


def _draw_limit(axes: Any, report: Report) -> None:
    first = next(iter(report.series().values()))
    known = [(point.decode_depth, point.decode_limit) for point in first if point.decode_limit is not None]
    if known:
        axes.plot(*zip(*known, strict=True), ":", color="gray", label="memory's limit")
