"""`transom doctor`: one line for each thing that matters for serving. Owns the words around the findings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from transom.cli.banner import wide_console
from transom.cli.doctor_findings import Finding, Verdict, findings
from transom.cli.failure import EXIT_FAILED

__all__ = ["show_doctor"]

_NAME_WIDTH = 15


def show_doctor(path: Path, port: int, *, as_json: bool) -> None:
    """Prints each finding as it comes; ends the command with 1 if one of them is a problem."""
    console, found = wide_console(), []
    for finding in findings(path, port):
        found.append(finding)
        if not as_json:
            console.print(_line(finding))
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    if any(finding.verdict is Verdict.PROBLEM for finding in found):
        raise typer.Exit(EXIT_FAILED)


def _line(finding: Finding) -> str:
    mark = "OK" if finding.verdict is Verdict.OK else finding.verdict.value
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{mark:7}  {finding.name:{_NAME_WIDTH}}  {finding.text}{advice}"
