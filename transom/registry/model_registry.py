"""`ModelRegistry`: all served models, under all their names. Owns their start, in parallel, and their end.

Lives in the event loop's thread; only `prepare` blocks. When which model is in RAM is decided by `Residency`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from transom.config.engine_config import MIB, EngineConfig, resolve, workspace_bytes
from transom.config.model_config import ModelConfig
from transom.config.registry_config import ModelEntry, ServerConfig
from transom.config.total_budgets import check_total_ram
from transom.engine import EngineClient, EngineState
from transom.errors import EngineRestartingError, ModelLoadingError, ModelNotFoundError, RequestError, TransomError
from transom.llm import LLM
from transom.models import weight_sizes
from transom.registry.model_files import read_model_config, read_model_files
from transom.registry.model_keeper import ModelKeeper
from transom.registry.model_slot import Claim, ModelSlot, SlotState
from transom.registry.residency import Residency
from transom.registry.served_model import ModelState, ServedModel
from transom.weights.file_stamp import FileStamps
from transom.weights.sources import open_weights, quantized_weights

Adjust = Callable[[EngineConfig], EngineConfig]
MayUse = Callable[[str], bool]
"""Whether the asker may use the model of this id."""


def _anything(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class FailedModel:
    """An entry that cannot be served, and why."""

    entry: ModelEntry
    error: Exception

    def status_fields(self) -> dict[str, str]:
        """State and reason, as `ServedModel` has them."""
        return {"status": ModelState.FAILED.value, "reason": str(self.error)}


class ModelRegistry:
    """The served models. `start` them before the first request, `close` them at the end."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        failed: Sequence[FailedModel] = (),
        server: ServerConfig = ServerConfig(),  # noqa: B008 - frozen
    ) -> None:
        """Raises `ConfigError` when the models can never be loaded within `server.max_total_ram_mb`."""
        self._models = tuple(models)
        self._unusable = {failure.entry.id: failure for failure in failed}
        entries = [*(served.entry for served in models), *(failure.entry for failure in failed)]
        self._ids = {name: entry.id for entry in entries for name in (entry.id, *entry.aliases)}
        self._started: set[str] = set()
        self._keeper = _keeper_of(self._models, server)

    @classmethod
    def prepare(
        cls,
        entries: Sequence[ModelEntry],
        server: ServerConfig = ServerConfig(),  # noqa: B008 - frozen
        *,
        num_threads: int,
        adjust: Adjust = lambda c: c,
    ) -> ModelRegistry:
        """Reads everything but the weights. Blocks. What fails is kept as failed, with its reason.

        `adjust` may replace limits of each `EngineConfig`. Raises `ConfigError` as the constructor does.
        """
        is_counted = server.max_total_ram_mb is not None
        models: list[ServedModel] = []
        failed: list[FailedModel] = []
        for entry in entries:
            try:
                models.append(_prepare_model(entry, num_threads, adjust, is_counted=is_counted))
            except (TransomError, OSError) as error:
                failed.append(FailedModel(entry, error))
        return cls(models, failed, server)

    def models(self, may_use: MayUse = _anything) -> tuple[ServedModel, ...]:
        """Every model that can be, or could once be, asked; of those that the asker may use."""
        return tuple(served for served in self._models if may_use(served.id))

    def ids(self) -> frozenset[str]:
        """Of all entries, whatever became of them."""
        return frozenset(self._ids.values())

    def failed(self) -> tuple[FailedModel, ...]:
        """Entries that cannot be served: their files cannot be used, or their last load failed."""
        slots = ((served, self.slot(served)) for served in self._models)
        unloadable = (
            FailedModel(served.entry, slot.failure)
            for served, slot in slots
            if slot.state is SlotState.FAILED and slot.failure is not None
        )
        return (*self._unusable.values(), *unloadable)

    def slot(self, served: ServedModel) -> ModelSlot:
        """Where a model stands between disk and RAM, and who uses it."""
        return self._keeper.slot(served.id)

    def unusable(self) -> tuple[FailedModel, ...]:
        """Entries whose files cannot be used."""
        return tuple(self._unusable.values())

    def idle_seconds(self, served: ServedModel) -> float | None:
        """Since when a loaded model has had no request; None for one that has some, or is not loaded."""
        return self._keeper.idle_seconds(served.id)

    @property
    def is_loading(self) -> bool:
        """Some model that is loaded at start has not finished its first load."""
        return any(
            served.engine.status.state is EngineState.STARTING
            for served in self._models
            if served.entry.load == "at_start" and served.id not in self._started
        )

    def get(self, name: str, may_use: MayUse = _anything) -> ServedModel:
        """The model with this id or alias, whatever its state; what the asker may not use does not exist.

        Raises `ModelNotFoundError`, and `ModelLoadingError` for one whose files cannot be used.
        """
        model_id = self._ids.get(name)
        if model_id is None or not may_use(model_id):
            raise ModelNotFoundError(name[:64], [served.id for served in self.models(may_use)])
        if (failure := self._unusable.get(model_id)) is not None:
            raise ModelLoadingError(
                f"The model '{model_id}' could not be loaded: {failure.error}", retry_after_seconds=60.0
            )
        return next(served for served in self._models if served.id == model_id)

    def first(self, may_use: MayUse = _anything) -> ServedModel:
        """What is meant when no model is named. Raises `ModelLoadingError` when none can be served."""
        models = self.models(may_use)
        if not models:
            raise ModelLoadingError("No model could be loaded.", retry_after_seconds=60.0)
        return models[0]

    def check_can_be_asked(self, served: ServedModel) -> None:
        """Raises `UnavailableError` when a request to the model would be refused at once; it may wait for a load."""
        if served.engine.status.state is EngineState.RESTARTING:
            raise EngineRestartingError(f"The model '{served.id}' is being restarted.", retry_after_seconds=2.0)
        self._keeper.check(served.id)

    def use(self, served: ServedModel) -> AbstractAsyncContextManager[None]:
        """The model is loaded, and stays so, within this context; waits for that, as long as the registry file says.

        Raises `UnavailableError`.
        """
        return self._keeper.use(served.id)

    async def until_loaded(self, served: ServedModel) -> None:
        """Waits as `use` does, and makes no use of it. Raises `UnavailableError`."""
        async with self.use(served):
            pass

    async def load(self, served: ServedModel) -> None:
        """Loads a model at an operator's wish, also one that has failed before; raises the reason when that fails."""
        await self._keeper.load(served.id)

    async def unload(self, served: ServedModel) -> None:
        """Unloads a model when its requests have ended, and waits for that. Raises `RequestError` for a pinned one."""
        if served.entry.pinned:
            raise RequestError(f"The model '{served.id}' is pinned: it is never unloaded.", param="model")
        await self._keeper.unload(served.id)

    async def start(self) -> tuple[FailedModel, ...]:
        """Loads the models of the start in parallel. Returns those that failed, now or in `prepare`."""
        at_start = [served for served in self._models if served.entry.load == "at_start"]
        await asyncio.gather(*(self._start_model(served) for served in at_start))
        return self.failed()

    async def close(self, drain_seconds: float = 0.0) -> None:
        """Ends all workers; what runs may go on for up to `drain_seconds`."""
        await self._keeper.close(drain_seconds)
        for served in self._models:
            served.llm.close()

    async def _start_model(self, served: ServedModel) -> None:
        try:
            await self._keeper.load(served.id)
        except (TransomError, OSError):
            pass  # kept in its slot
        finally:
            self._started.add(served.id)


def _keeper_of(models: Sequence[ServedModel], server: ServerConfig) -> ModelKeeper:
    max_ram_bytes = None if server.max_total_ram_mb is None else server.max_total_ram_mb * MIB
    check_total_ram(
        {served.id: served.ram_bytes for served in models},
        pinned=[served.id for served in models if served.entry.pinned],
        at_start=[served.id for served in models if served.entry.load == "at_start"],
        max_total_ram_bytes=max_ram_bytes,
    )
    claims = [
        Claim(served.id, served.ram_bytes, served.entry.pinned, served.entry.idle_limit(server)) for served in models
    ]
    residency = Residency(
        claims, max_ram_bytes=max_ram_bytes, max_waiting=server.max_waiting_for_load, clock=time.monotonic
    )
    engines = {served.id: served.engine for served in models}
    return ModelKeeper(engines, residency, load_wait_seconds=server.load_wait_seconds)


def _prepare_model(entry: ModelEntry, num_threads: int, adjust: Adjust, *, is_counted: bool) -> ServedModel:
    """`is_counted`: its RAM counts against a budget of all models."""
    stamps = FileStamps.of(entry.path)
    own_config = read_model_config(entry.path)
    model_config, resolved = resolve(entry, own_config, num_threads=num_threads)  # before tokenizers, which take longer
    engine_config = adjust(resolved)
    files = read_model_files(entry.path)
    engine = EngineClient(model_config, engine_config, name=entry.id, check_files=stamps.check)
    llm = LLM(
        model_config,
        files.tokenizer,
        files.chat_template,
        files.generation_defaults,
        engine,
        tool_parser=entry.tool_parser,
    )
    return ServedModel(
        entry,
        model_config,
        own_config.max_position_embeddings,
        engine_config,
        files.generation_defaults,
        llm,
        engine,
        _ram_bytes(model_config, engine_config) if is_counted else 0,
        files.pooling.chosen(entry.pooling),
    )


def _ram_bytes(model_config: ModelConfig, engine_config: EngineConfig) -> int:
    """What the worker may take: its cap, or else an upper estimate. Reads headers of the weights."""
    if engine_config.max_ram_bytes is not None:
        return engine_config.max_ram_bytes
    weights = quantized_weights(open_weights(engine_config.model_path), engine_config.quantization)
    sizes = weight_sizes(model_config, weights)
    return sizes.num_bytes + engine_config.kv_cache_ram_bytes + workspace_bytes(model_config, engine_config)
