"""Ctrl-C stops what runs, and nothing else."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


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
