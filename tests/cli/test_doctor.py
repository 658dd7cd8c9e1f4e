"""Every line says what there is, and what to do where that is not well."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from transom.cli import doctor_findings
from transom.cli.doctor import show_doctor
from transom.cli.doctor_findings import Finding, Verdict, findings


@pytest.fixture(autouse=True)
def in_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file, and no measurement of memory."""
    monkeypatch.setattr(doctor_findings, "_DISK_SECONDS", 0.02)
    monkeypatch.setattr(doctor_findings, "MAX_FILE_BYTES", 2**21)
    monkeypatch.setattr(doctor_findings, "measure_memory", lambda: 3e10)


@pytest.fixture
def free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield port


def by_name(path: Path, port: int) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings(path, port)}


def test_a_machine_that_can_serve_has_no_problem(tmp_path: Path, free_port: int) -> None:
    found = by_name(tmp_path, free_port)
    assert [each for each in found.values() if each.verdict is Verdict.PROBLEM] == []
    expected = {
        "processor",
        "memory",
        "huge pages",
        "open files",
        "python",
        "kernels",
        "packages",
        "disk speed",
        "port",
    }
    assert expected <= found.keys()
    assert "30.0 GB/s" in found["memory speed"].text
    assert all(each.advice for each in found.values() if each.verdict is not Verdict.OK)
    assert list(tmp_path.iterdir()) == []


def test_who_has_the_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        finding = by_name(tmp_path, listener.getsockname()[1])["port"]
    assert finding.verdict is Verdict.PROBLEM
    assert f"process {os.getpid()}" in finding.text
    assert "--port" in finding.advice


def test_a_path_that_cannot_be_written_is_a_problem(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "file").write_text("")
    found = by_name(tmp_path / "file", free_port)
    assert found["disk"].verdict is Verdict.PROBLEM
    assert "--path" in found["disk"].advice


def test_few_open_files_are_a_note_and_very_few_a_problem(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, verdict in ((512, Verdict.NOTE), (64, Verdict.PROBLEM)):
        monkeypatch.setattr("transom.cli.doctor_findings.resource.getrlimit", lambda _, limit=limit: (limit, limit))
        finding = by_name(tmp_path, free_port)["open files"]
        assert (finding.verdict, finding.text) == (verdict, str(limit))
        assert "ulimit -n" in finding.advice


def test_only_problems_end_the_command_with_1(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    show_doctor(tmp_path, free_port, as_json=False)
    assert capsys.readouterr().out.splitlines()[0].startswith("OK       processor")
    (tmp_path / "file").write_text("")
    with pytest.raises(typer.Exit) as ended:
        show_doctor(tmp_path / "file", free_port, as_json=True)
    assert ended.value.exit_code == 1
    report = json.loads(capsys.readouterr().out)
    assert {each["verdict"] for each in report} >= {"ok", "problem"}
    assert all(each.keys() == {"name", "verdict", "text", "advice"} for each in report)
