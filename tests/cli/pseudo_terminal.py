"""A process behind a pseudo-terminal, which is its controlling one: Ctrl-C typed into it is an interrupt."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_SECONDS = 20


class PseudoTerminal:
    """`transom ARGUMENTS` as somebody at a terminal runs it."""

    def __init__(self, *arguments: str, home: Path, term: str = "xterm-256color", **environment: str) -> None:
        """Its settings and memories lie below `home`."""
        self._own_end, other_end = pty.openpty()
        self.resize(rows=30, columns=100)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRANSOM_", "XDG_", "HF_"))}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):  # the terminal itself says how large it is
            kept.pop(name, None)
        own = {"TERM": term, "HOME": str(home), "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "transom", *arguments],
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            cwd=ROOT,
            env={**kept, **own, **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(other_end)
        self.shown = ""
        """Since the last `forget`."""

    @property
    def text(self) -> str:
        """What was shown, without commands to the terminal."""
        return _ESCAPE.sub("", self.shown).replace("\r", "")

    def forget(self) -> None:
        """What comes from now on is looked at."""
        self.shown = ""

    def wait_for(self, text: str, count: int = 1) -> None:
        deadline = time.monotonic() + _SECONDS
        while self.text.count(text) < count:
            assert self._read(), f"{text!r} did not come: {self.text}"
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.text}"

    def type(self, text: str) -> None:
        os.write(self._own_end, text.encode())

    def ask(self, text: str, answer: str, count: int = 1) -> str:
        """Types a line and waits for what it brings; all that was shown meanwhile."""
        self.forget()
        self.type(f"{text}\r")
        self.wait_for(answer, count)
        return self.text

    def resize(self, *, rows: int, columns: int) -> None:
        """Whoever runs in it is told."""
        fcntl.ioctl(self._own_end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        """Reads until the process has ended; its exit code."""
        deadline = time.monotonic() + _SECONDS
        while self._read():
            assert time.monotonic() < deadline, f"it does not end: {self.text}"
        return self.process.wait(timeout=_SECONDS)

    def close(self) -> None:
        """Ends the process, too."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._own_end)

    def _read(self) -> bool:
        """False when there is nobody at the other end any more."""
        if select.select([self._own_end], [], [], 0.1)[0]:
            try:
                self.shown += os.read(self._own_end, 65536).decode(errors="replace")
            except OSError:
                return False
        return True
