"""What Transom is packaged with: the unit of systemd, the container's files, and the wheel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_EXPOSURE = 2.0
"""Of 10; systemd calls it OK."""


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=600)


def test_systemd_understands_the_unit_and_finds_it_little_exposed() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = run("systemd-analyze", "security", "--offline=yes", "packaging/transom.service")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "an unknown setting"
    level = re.search(r"exposure level for transom.service: ([\d.]+)", done.stdout)
    assert level is not None and float(level.group(1)) <= MOST_EXPOSURE


def test_the_container_is_built_from_what_a_wheel_needs() -> None:
    """Everything that the build reads is copied, and nothing else is sent to it."""
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    files = {name for line in copied for name in line.split()}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert files == sent == {"pyproject.toml", "CMakeLists.txt", "README.md", "transom"}
    assert all((ROOT / name).exists() for name in files)


def package_data() -> set[str]:
    """Files of the package that are no Python and no build's, as git has them."""
    listed = run("git", "ls-files", "transom")
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {name for name in listed.stdout.split() if "/csrc/" not in name}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_wheel_runs_in_an_empty_directory_without_the_checkout(tmp_path: Path) -> None:
    """Its packages are those of the tests; the checkout itself is out of reach."""
    built = run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"),
        *("--wheel-dir", tmp_path, f"--config-settings=build-dir={tmp_path / 'build'}", "."),
    )
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert package_data() <= names
    assert not [name for name in names if "/csrc/" in name or name.startswith(("tests/", "benchmarks/"))]
    assert run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv").returncode == 0
    [packages] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    [others] = Path(sys.prefix).glob("lib/python*/site-packages")
    (packages / "a.pth").write_text(f"{tmp_path / 'installed'}\n{others}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    python = tmp_path / "venv" / "bin" / "python"
    where = run(python, "-c", "import transom; print(transom.__file__)", cwd=empty)
    assert where.stdout.startswith(str(tmp_path / "installed"))
    listed = run(python, "-m", "transom", "models", "--json", cwd=empty)
    assert [model["id"] for model in json.loads(listed.stdout)] == ["tolstoy", "tolstoy-window", "recall"]
    written = run(python, "-m", "transom", "run", "tolstoy", "Prince Andrew", "-n", "8", "--temp", "0", cwd=empty)
    assert (written.returncode, len(written.stdout.split()) > 3) == (0, True), written.stderr
    assert not list(empty.iterdir())
