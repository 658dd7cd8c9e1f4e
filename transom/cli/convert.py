"""`transom convert`: a model as one GGUF file, with the tensor types that were asked for."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from transom.cli.banner import size_text
from transom.cli.failure import say
from transom.cli.gguf_plan import GgufPlan, plan_from_directory, plan_from_gguf
from transom.errors import ConfigError
from transom.kernels import set_num_threads
from transom.weights.gguf import is_gguf
from transom.weights.gguf_writer import write_gguf

_SUFFIX = ".gguf"


def convert(source: Path, target: Path, recipe: str, *, threads: int, force: bool) -> None:
    """Writes `target`, and says on standard output what it holds. Raises ConfigError, WeightsError, TokenizerError."""
    _check_paths(source, target, force=force)
    set_num_threads(threads)
    started = time.monotonic()
    plan = plan_from_directory(source, recipe) if source.is_dir() else plan_from_gguf(source, recipe)
    for note in plan.notes:
        say(note)
    size = _write(plan, target, force=force)
    types = Counter(tensor.dtype for tensor in plan.tensors)
    mix = ", ".join(f"{count} {dtype}" for dtype, count in types.most_common())
    print(f"{target}: {size_text(size)} in {time.monotonic() - started:.1f} s; tensors: {mix}")


def _check_paths(source: Path, target: Path, *, force: bool) -> None:
    if not source.exists():
        raise ConfigError(f"{source}: there is no such directory or file")
    if not source.is_dir() and not is_gguf(source):
        raise ConfigError(f"{source}: is neither a model's directory nor a GGUF file")
    if target.suffix.lower() != _SUFFIX:
        raise ConfigError(f"{target}: the name of the new file must end with {_SUFFIX}")
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: there is no directory {target.parent}")
    if target.exists() and not force:
        raise ConfigError(f"{target}: exists already; --force replaces it")


def _write(plan: GgufPlan, target: Path, *, force: bool) -> int:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(target.name, total=None)

        def show(done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes)

        return write_gguf(target, plan.metadata, plan.tensors, overwrite=force, progress=show)
