"""`make serve` on a machine that lacks something: one clear line before anything is built.

The machine is a PATH with links to the few programs that are there, and pythons that say they are something else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELL_TOOLS = ("sh", "touch", "rm")
NEEDED = "On Debian: apt-get install python3 python3-venv python3-dev g++ make"


class Machine:
    """An empty project directory, and a PATH of its own."""

    def __init__(self, root: Path) -> None:
        self.bin, self.project = root / "bin", root / "project"
        self.bin.mkdir()
        self.project.mkdir()
        for tool in SHELL_TOOLS:
            self.link(tool, shutil.which(tool) or "")
        self.link("python3", sys.executable)
        self.write("g++", "exit 0")

    def link(self, name: str, target: str) -> None:
        (self.bin / name).symlink_to(target)

    def write(self, name: str, script: str) -> None:
        """A program that is a shell script, in place of what is there."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def python_without(self, word: str, otherwise: str = "") -> None:
        """Code that contains `word` fails."""
        script = f'case "$2" in *{word}*) {otherwise or "exit 1"};; esac\nexec {sys.executable} "$@"'
        self.write("python3", script)

    def check(self, python: str = "python3", **environment: str) -> str:
        """What is said; nothing where all is well."""
        done = subprocess.run(
            ["sh", str(ROOT / "scripts" / "check_tools.sh"), python, ".venv"],
            cwd=self.project,
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert (done.returncode == 0) == (done.stderr == "")
        assert done.stdout == ""
        assert done.stderr.count("\n") <= 1, done.stderr
        return done.stderr.strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_said_where_nothing_is_missing_and_nothing_is_left(machine: Machine) -> None:
    assert machine.check() == ""
    assert not list(machine.project.iterdir())


def test_a_missing_compiler_is_named(machine: Machine) -> None:
    (machine.bin / "g++").unlink()
    assert machine.check() == f"missing: g++. {NEEDED}"


def test_a_compiler_that_is_too_old_is_named_with_its_version(machine: Machine) -> None:
    machine.write("g++", 'case "$1" in -dumpfullversion) echo 9.4.0;; *) exit 1;; esac')
    assert machine.check().startswith("missing: a compiler for C++20, g++ >= 11 (found 9.4.0). On Debian:")


def test_the_compiler_of_the_environment_counts(machine: Machine) -> None:
    machine.write("own-compiler", "exit 1")
    assert "a compiler for C++20" in machine.check(CXX="own-compiler")


def test_a_python_that_is_too_old_is_named_with_its_version(machine: Machine) -> None:
    machine.write("python3", 'case "$2" in *version_info*) exit 1;; *platform*) echo 3.10.13;; esac')
    assert machine.check() == f"missing: python >= 3.11 (found 3.10.13; try make PYTHON=python3.11). {NEEDED}"


@pytest.mark.parametrize(
    ("python", "words"), [("python3", "python3 (>= 3.11)"), ("python9", "python9 (given as PYTHON; needs python")]
)
def test_a_missing_python_is_named(machine: Machine, python: str, words: str) -> None:
    (machine.bin / "python3").unlink()
    assert machine.check(python).startswith(f"missing: {words}")


def test_a_python_that_does_not_start_is_named(machine: Machine) -> None:
    machine.write("python3", "exit 127")
    assert machine.check() == f"missing: python3 does not start. {NEEDED}"


@pytest.mark.parametrize(("word", "package"), [("ensurepip", "python3-venv"), ("Python.h", "python3-dev")])
def test_parts_of_python_that_debian_has_apart_are_named(machine: Machine, word: str, package: str) -> None:
    machine.python_without(word)
    assert machine.check().startswith(f"missing: {package}")


def test_everything_that_is_missing_is_in_one_line(machine: Machine) -> None:
    (machine.bin / "g++").unlink()
    machine.python_without("ensurepip")
    assert machine.check() == f"missing: python3-venv, g++. {NEEDED}"


def test_a_disk_without_room_is_said_with_both_numbers(machine: Machine) -> None:
    machine.python_without("disk_usage", "echo 19; exit 0")
    assert machine.check() == f"19 MB are free in {machine.project}, about 700 are needed for packages and the build"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_said(machine: Machine) -> None:
    machine.project.chmod(0o500)
    assert "cannot be written to" in machine.check()


def test_a_read_only_disk_is_said(machine: Machine) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(machine.project)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount")
    try:
        assert machine.check().endswith("cannot be written to: the environment .venv and the build are made in it")
    finally:
        subprocess.run(["umount", str(machine.project)], check=True)


def test_what_only_a_build_needs_is_not_asked_for_when_it_is_done(machine: Machine) -> None:
    (machine.project / ".venv").mkdir()
    (machine.project / ".venv" / "installed").touch()
    (machine.bin / "g++").unlink()
    machine.python_without("disk_usage", "echo 19; exit 0")
    assert machine.check() == ""
