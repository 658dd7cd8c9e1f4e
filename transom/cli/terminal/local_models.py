"""`LocalModels`: one model at a time, in a worker of this program. Owns its registry."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from transom.cli.answers import OnProgress
from transom.cli.options import ModelOptions
from transom.cli.responder import Responder
from transom.cli.sources import adjust_limits, bundled_names, load_registry, num_threads, pulled_entries
from transom.errors import TransomError
from transom.registry import ModelRegistry, ServedModel

_POLL_SECONDS = 0.1


class LocalModels:
    """Models by directory, file or name, all with the same options. Nothing is open until `open` was called."""

    def __init__(self, options: ModelOptions, *, complete: bool, separates_reasoning: bool) -> None:
        self._options = options
        self._complete = complete
        self._separates_reasoning = separates_reasoning
        self._registry: ModelRegistry | None = None
        self._responder: Responder | None = None
        self._name = ""

    @property
    def current(self) -> Responder:
        assert self._responder is not None
        return self._responder

    def names(self) -> list[str]:
        """Bundled and pulled ones."""
        return sorted(bundled_names() | {entry.id for entry in pulled_entries()})

    async def open(self, name: str, on_progress: OnProgress) -> None:
        """As `Models`. What can be known of a model without its weights is known before the old one is closed."""
        registry = await asyncio.to_thread(self._prepared, name)
        before = self._name if self._registry is not None else None
        await self.close()
        try:
            await self._start(registry, name, on_progress)
        except BaseException:
            await registry.close()
            if before is not None:
                with suppress(TransomError, OSError):
                    await self._start(await asyncio.to_thread(self._prepared, before), before, on_progress)
            raise

    async def close(self) -> None:
        """Ends the worker."""
        if self._registry is not None:
            registry, self._registry = self._registry, None
            await registry.close()

    def _prepared(self, name: str) -> ModelRegistry:
        """Everything but the weights. Blocks. Raises what keeps it from being served."""
        options = replace(self._options, model=name)
        registry = ModelRegistry.prepare(
            load_registry(options).models[:1],
            num_threads=num_threads(options),
            adjust=lambda config: adjust_limits(options, config),
        )
        for failure in registry.unusable():
            raise failure.error
        return registry

    async def _start(self, registry: ModelRegistry, name: str, on_progress: OnProgress) -> None:
        served = registry.first()
        loading = asyncio.create_task(registry.load(served))
        await _watched(loading, served, on_progress)
        self._registry, self._name = registry, name
        self._responder = Responder(served, complete=self._complete, separates_reasoning=self._separates_reasoning)


async def _watched(loading: asyncio.Task[None], served: ServedModel, on_progress: OnProgress) -> None:
    """Waits for the load, and tells how far it is."""
    try:
        while not (await asyncio.wait({loading}, timeout=_POLL_SECONDS))[0]:
            if (progress := served.engine.status.progress) is not None:
                on_progress(progress.done_bytes, progress.total_bytes)
    finally:
        loading.cancel()
    await loading
