"""`transom pull`: what is said while a model is fetched. What is done is the hub room's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import closing

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from transom.cli.banner import size_text
from transom.cli.failure import say
from transom.cli.sources import bundled_names
from transom.cli.user_directories import models_directory
from transom.errors import ConfigError
from transom.hub.file_choice import Choice, HubFile
from transom.hub.model_reference import ModelReference
from transom.hub.model_store import ModelStore
from transom.hub.pull import Pulled, pull
from transom.hub.repository import DEFAULT_ENDPOINT, Hub


def pull_model(model: str, revision: str, name: str | None) -> None:
    """Fetches a model into the user's models directory and says how it is served.

    Reads `HF_ENDPOINT` and `HF_TOKEN`. Raises `HubError`, `ConfigError`, OSError; KeyboardInterrupt for Ctrl-C, after
    it was said that nothing is lost.
    """
    reference = ModelReference.parse(model, revision)
    if name in bundled_names():
        raise ConfigError(f"--name {name} is the name of a bundled model")
    store = ModelStore(models_directory())
    hub = Hub(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, os.environ.get("HF_TOKEN") or None)
    try:
        with closing(hub), _bars() as bars:
            pulled = pull(reference, hub, store, _Bars(bars, reference, lambda: bundled_names()), name=name)
    except KeyboardInterrupt:
        say("stopped; what came so far is kept, and the same command goes on from there")
        raise
    _say_outcome(pulled, reference)


def _say_outcome(pulled: Pulled, reference: ModelReference) -> None:
    what = "is here already" if pulled.was_there else "is whole, its checksums are right"
    print(f"{reference} at {pulled.commit[:12]} {what}: {pulled.directory}")
    print(f"transom run {pulled.name}")


class _Bars:
    """A bar for each file; where nobody watches, a line instead."""

    def __init__(self, progress: Progress, reference: ModelReference, taken: Callable[[], frozenset[str]]) -> None:
        self._progress = progress
        self._reference = reference
        self._taken = taken
        self._tasks: dict[str, TaskID] = {}

    def begins(self, name: str, commit: str, choice: Choice) -> None:
        """Raises `ConfigError` for a name that would never be found behind a bundled model's."""
        if name in self._taken():
            raise ConfigError(f"{name} is the name of a bundled model; give --name another")
        size = size_text(choice.num_bytes)
        print(f"{self._reference} at {commit[:12]}: {len(choice.files)} files, {size}, as {name}", flush=True)

    def advances(self, file: HubFile, num_bytes: int) -> None:
        if file.path not in self._tasks:
            self._tasks[file.path] = self._progress.add_task(file.path, total=file.size)
        self._progress.update(self._tasks[file.path], completed=num_bytes)


def _bars() -> Progress:
    """On standard error, and only where it is a terminal that can move its cursor."""
    console = Console(stderr=True, markup=False, highlight=False)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not sys.stderr.isatty() or console.is_dumb_terminal,
    )
