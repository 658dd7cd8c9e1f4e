"""Shell completion: what the shells get from the script they are given, and from the program when Tab is pressed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TRANSOM = Path(sys.executable).parent / "transom"
PATH = f"{TRANSOM.parent}:{os.environ['PATH']}"


def output_of(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": PATH, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def script(shell: str) -> str:
    """What `--install-completion` writes for a shell."""
    return output_of([str(TRANSOM)], _TRANSOM_COMPLETE=f"source_{shell}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_that_it_can_read(shell: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script(shell))
    assert "transom" in script(shell)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    output_of([shell, "-n", str(tmp_path / "script")])


def test_bash_completes_commands_and_flags() -> None:
    def offered(words: str) -> list[str]:
        press_tab = f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _transom_completion transom"
        return output_of(["bash", "-c", f'{script("bash")}\n{press_tab}\nprintf "%s\\n" "${{COMPREPLY[@]}}"']).split()

    assert offered("transom be") == ["bench"]
    assert "--strategies" in offered("transom bench tolstoy --str")


def test_fish_completes_commands() -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    shown = output_of(["fish", "-c", f'{script("fish")}\ncomplete -C "transom be"'])
    assert [line.split("\t")[0] for line in shown.splitlines()] == ["bench"]


def test_zsh_is_told_commands_with_their_meaning() -> None:
    """Its script evaluates what comes."""
    told = output_of([str(TRANSOM)], _TRANSOM_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="transom be")
    assert told.startswith("_arguments")
    assert '"bench":"Measure prefill and decode' in told
