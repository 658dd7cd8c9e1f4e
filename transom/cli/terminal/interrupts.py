"""Ctrl-C stops what runs, and nothing else."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """Unlike SIG_IGN, this is no setting that processes inherit."""


@contextmanager
def idle_interrupts_ignored() -> Iterator[None]:
    """Within it, Ctrl-C that comes when nothing runs, such as a moment after the end of an answer, does nothing."""
    before = signal.signal(signal.SIGINT, _ignore)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def until_interrupted(work: Coroutine[Any, Any, None]) -> bool:
    """Runs `work` and returns True; False when Ctrl-C cancelled it. In the main thread only.

    What `work` raises is raised. Who cancels this cancels `work`, too.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
    if task.cancelled():
        return False
    task.result()
    return True
