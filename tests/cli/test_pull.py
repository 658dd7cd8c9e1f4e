"""`transom pull` as a command: what it says, its exit codes, and how what it fetched is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.pseudo_terminal import ROOT, PseudoTerminal
from tests.hub.fake_hub import REPOSITORY, FakeHub, running
from transom.cli.models import list_models
from transom.cli.options import ModelOptions
from transom.cli.pull import pull_model
from transom.cli.sources import bundled_registry, load_registry
from transom.errors import ConfigError, HubError

TOLSTOY = bundled_registry().parent / "tolstoy"
NAME = "tiny-model"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """With a model that can be served."""
    files = {path.name: path.read_bytes() for path in TOLSTOY.iterdir()}
    with running(FakeHub(files)) as hub:
        yield hub


@pytest.fixture
def here(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where models go; the hub is the one that is asked."""
    monkeypatch.setenv("TRANSOM_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "models"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "transom", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


def test_a_pulled_model_is_found_by_its_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pull_model(REPOSITORY, "main", None)
    shown = capsys.readouterr().out
    assert f"as {NAME}" in shown
    assert f"its checksums are right: {here / NAME}" in shown
    assert shown.endswith(f"transom run {NAME}\n")
    [entry] = load_registry(ModelOptions(model=NAME)).models
    assert (entry.id, entry.path) == (NAME, here / NAME)
    list_models(None, as_json=False)
    assert NAME in capsys.readouterr().out
    with pytest.raises(ConfigError, match=f"pulled: {NAME}"):
        load_registry(ModelOptions(model="nobody"))
    pull_model(REPOSITORY, "main", None)
    assert "is here already" in capsys.readouterr().out


def test_a_token_from_the_environment_opens_a_private_model(
    hub: FakeHub, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(HubError, match="set HF_TOKEN"):
        pull_model(REPOSITORY, "main", None)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull_model(REPOSITORY, "main", None)
    assert (here / NAME).is_dir()


def test_names_of_bundled_models_stay_theirs(here: Path) -> None:
    with pytest.raises(ConfigError, match="is the name of a bundled model"):
        pull_model(REPOSITORY, "main", "tolstoy")
    assert not here.exists()


def test_a_wrong_checksum_is_one_line_and_exit_code_1(hub: FakeHub, here: Path) -> None:
    hub.corrupted.add("model.safetensors")
    result = command("pull", REPOSITORY)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("transom: model.safetensors does not have the checksum that the hub names; it was removed")
    assert not (here / NAME).exists()


def test_ctrl_c_keeps_what_came_and_the_next_pull_goes_on(hub: FakeHub, here: Path, tmp_path: Path) -> None:
    hub.holds = threading.Event()
    del hub.files["README.md"]
    hub.files = dict(sorted(hub.files.items(), key=lambda file: -len(file[1])))
    terminal = PseudoTerminal("pull", REPOSITORY, home=tmp_path, TRANSOM_MODELS=str(here), HF_ENDPOINT=hub.endpoint)
    try:
        half = len(hub.files["model.safetensors"]) // 2
        deadline = time.monotonic() + 30
        while not any(path.stat().st_size >= half for path in here.rglob("*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        terminal.wait_for("model.safetensors")
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.end() == 130
        assert "what came so far is kept, and the same command goes on from there" in terminal.text
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()
    hub.holds.set()
    assert command("pull", REPOSITORY).returncode == 0
    assert f"bytes={half}-" in hub.ranges()
    assert (here / NAME / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
