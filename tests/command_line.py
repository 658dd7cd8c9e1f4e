"""`transom` with any arguments, as a process of its own.

Most of a short command's time goes into imports. So `run` asks a process that has made them already, and which forks
for every call: what it gets is what a shell would get, a second of processor time sooner. `run_anew` is the shell.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
_STREAMS = ("stdin", "stdout", "stderr")
Ended = subprocess.CompletedProcess[str]


def run(*arguments: str, text: str | None = None, **environment: str) -> Ended:
    """What `transom ARGUMENTS` says, given `text` on standard input, in the caller's environment without settings."""
    return _forking_process().run(arguments, text or "", {**clean_environment(), **environment})


def run_anew(*arguments: str, text: str | None = None, **environment: str) -> Ended:
    """The same of a process that begins from nothing."""
    return subprocess.run(
        [sys.executable, "-m", "transom", *arguments],
        input=text or "",
        capture_output=True,
        text=True,
        timeout=60,
        env={**clean_environment(), **environment},
        cwd=ROOT,
    )


def clean_environment() -> dict[str, str]:
    """The caller's environment without settings of this project."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRANSOM_")}


@dataclass(frozen=True)
class _Command:
    """What a forked process becomes: its arguments, its whole environment, and the directory of its three streams."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str

    def become(self) -> None:
        """Makes this process one that was started by the command line; returns only to run it."""
        for descriptor, name in enumerate(_STREAMS):
            stream = os.open(Path(self.directory) / name, os.O_RDWR | os.O_APPEND)
            os.dup2(stream, descriptor)
            os.close(stream)
        sys.argv = ["transom", *self.arguments]
        os.environ.clear()
        os.environ.update(self.environment)


class _ForkingProcess:
    """Runs commands one after another; ends with its standard input, so it outlives nobody."""

    def __init__(self) -> None:
        environment = {**clean_environment(), "OPENBLAS_NUM_THREADS": "1"}  # only a process of one thread may fork
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.command_line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def run(self, arguments: tuple[str, ...], text: str, environment: Mapping[str, str]) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as directory:
            for name in _STREAMS:
                (Path(directory) / name).write_text(text if name == "stdin" else "")
            command = _Command(arguments, environment, directory)
            self._process.stdin.write(json.dumps(asdict(command)) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            output, errors = [(Path(directory) / name).read_text() for name in _STREAMS[1:]]
        return subprocess.CompletedProcess(["transom", *arguments], code, output, errors)

    def close(self) -> None:
        self._process.communicate()


@cache
def _forking_process() -> _ForkingProcess:
    process = _ForkingProcess()
    atexit.register(process.close)
    return process


def _fork_for_every_command() -> None:
    """Returns in the processes that have become a command, and at the end of all commands raises `SystemExit`."""
    commands, codes = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    while line := commands.readline():
        process_id = os.fork()
        if process_id == 0:
            _Command(**json.loads(line)).become()
            return
        _, status = os.waitpid(process_id, 0)
        print(os.waitstatus_to_exitcode(status), file=codes, flush=True)
    sys.exit()


if __name__ == "__main__":
    import transom.cli.cache
    import transom.cli.check
    import transom.cli.run
    import transom.cli.serve  # noqa: F401
    from transom.__main__ import main

    assert len(list(Path("/proc/self/task").iterdir())) == 1
    _fork_for_every_command()
    main()
