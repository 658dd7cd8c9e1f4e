"""One side of the comparison: the model in a worker with that side's budgets, and a directory for its cold tier."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from transom.cli.bench.report import Tiers
from transom.cli.bench.settings import BenchSettings
from transom.cli.bench.subject import Subject
from transom.config.engine_config import EngineConfig
from transom.errors import ConfigError
from transom.registry import ModelRegistry, ServedModel

DEFAULT_DIRECTORY = Path("/var/tmp")  # noqa: S108 - on disk where /tmp may be memory; only a directory of our own in it
"""Where the cold tier lies during a benchmark, unless somebody says otherwise."""


@contextmanager
def loaded(subject: Subject, tiers: Tiers, settings: BenchSettings, runner: asyncio.Runner) -> Iterator[ServedModel]:
    """The model, ready, within this context; worker and files are gone behind it. Raises what loading raises."""
    with _cold_directory(settings, wanted=tiers is Tiers.RAM_AND_SSD) as directory:

        def adjust(config: EngineConfig) -> EngineConfig:
            return replace(
                config,
                kv_cache_ram_bytes=subject.ram_bytes[tiers],
                max_ram_bytes=None,
                max_num_seqs=1,
                max_draft_tokens=0,
                hot_tokens=None,
                ssd_path=directory,
                max_ssd_bytes=settings.ssd_bytes if directory else 0,
                max_reuse_ssd_bytes=None,
            )

        entry = subject.entry.model_copy(update={"load": "at_start"})
        registry = ModelRegistry.prepare([entry], num_threads=subject.engine_config.num_threads, adjust=adjust)
        try:
            for failure in runner.run(registry.start()):
                raise failure.error
            yield registry.first()
        finally:
            runner.run(registry.close())


def check_side(settings: BenchSettings) -> None:
    """Raises ConfigError now for what would otherwise fail when RAM alone is measured."""
    parent = _parent_directory(settings)
    if settings.ssd_bytes and not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ConfigError(f"--ssd-path {parent}: is no directory that can be written to")


def _parent_directory(settings: BenchSettings) -> Path:
    return settings.ssd_path or DEFAULT_DIRECTORY


@contextmanager
def _cold_directory(settings: BenchSettings, *, wanted: bool) -> Iterator[Path | None]:
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="transom-bench-", dir=_parent_directory(settings)) as directory:
        yield Path(directory)
