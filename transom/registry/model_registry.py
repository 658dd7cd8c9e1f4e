"""`ModelRegistry`: all served models, under all their names. Owns their start, in parallel, and their end.

Lives in the event loop's thread; only `prepare` blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transom.config.engine_config import EngineConfig, resolve
from transom.config.registry_config import ModelEntry
from transom.engine import EngineClient, EngineState
from transom.errors import ModelLoadingError, ModelNotFoundError, TransomError
from transom.llm import LLM
from transom.registry.model_files import read_model_config, read_model_files
from transom.registry.served_model import ModelState, ServedModel

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

    def __init__(self, models: Sequence[ServedModel], failed: Sequence[FailedModel] = ()) -> None:
        self._models = tuple(models)
        self._failed = {failure.entry.id: failure for failure in failed}
        entries = [*(served.entry for served in models), *(failure.entry for failure in failed)]
        self._ids = {name: entry.id for entry in entries for name in (entry.id, *entry.aliases)}

    @classmethod
    def prepare(cls, entries: Sequence[ModelEntry], *, num_threads: int, adjust: Adjust = lambda c: c) -> ModelRegistry:
        """Reads everything but the weights. Blocks. What fails is kept as failed, with its reason.

        `adjust` may replace limits of each `EngineConfig`.
        """
        models: list[ServedModel] = []
        failed: list[FailedModel] = []
        for entry in entries:
            try:
                models.append(_prepare_model(entry, num_threads, adjust))
            except (TransomError, OSError) as error:
                failed.append(FailedModel(entry, error))
        return cls(models, failed)

    def models(self, may_use: MayUse = _anything) -> tuple[ServedModel, ...]:
        """Every model that can be, or could once be, asked; of those that the asker may use."""
        return tuple(served for served in self._models if may_use(served.id))

    def ids(self) -> frozenset[str]:
        """Of all entries, whatever became of them."""
        return frozenset(self._ids.values())

    def failed(self) -> tuple[FailedModel, ...]:
        """Entries that cannot be served."""
        return tuple(self._failed.values())

    @property
    def is_loading(self) -> bool:
        """Some model has not finished its first load."""
        return any(served.engine.status.state is EngineState.STARTING for served in self._models)

    def get(self, name: str, may_use: MayUse = _anything) -> ServedModel:
        """The model with this id or alias, whatever its state; what the asker may not use does not exist.

        Raises `ModelNotFoundError`, and `ModelLoadingError` for one whose files cannot be used.
        """
        model_id = self._ids.get(name)
        if model_id is None or not may_use(model_id):
            raise ModelNotFoundError(name[:64], [served.id for served in self.models(may_use)])
        if model_id in self._failed:
            raise ModelLoadingError(f"The model '{model_id}' could not be loaded.", retry_after_seconds=60.0)
        return next(served for served in self._models if served.id == model_id)

    def first(self, may_use: MayUse = _anything) -> ServedModel:
        """What is meant when no model is named. Raises `ModelLoadingError` when none can be served."""
        models = self.models(may_use)
        if not models:
            raise ModelLoadingError("No model could be loaded.", retry_after_seconds=60.0)
        return models[0]

    async def start(self) -> tuple[FailedModel, ...]:
        """Loads all models in parallel. Returns those that failed, now or in `prepare`."""
        await asyncio.gather(*(self._start_model(served) for served in self._models))
        return self.failed()

    async def close(self, drain_seconds: float = 0.0) -> None:
        """Ends all workers; what runs may go on for up to `drain_seconds`."""
        await asyncio.gather(*(served.engine.close(drain_seconds) for served in self._models))
        for served in self._models:
            served.llm.close()

    async def _start_model(self, served: ServedModel) -> None:
        try:
            await served.engine.start()
        except (TransomError, OSError) as error:
            self._failed[served.id] = FailedModel(served.entry, error)


def _prepare_model(entry: ModelEntry, num_threads: int, adjust: Adjust) -> ServedModel:
    own_config = read_model_config(entry.path)
    model_config, resolved = resolve(entry, own_config, num_threads=num_threads)  # before tokenizers, which take longer
    engine_config = adjust(resolved)
    files = read_model_files(entry.path)
    engine = EngineClient(model_config, engine_config, name=entry.id)
    llm = LLM(model_config, files.tokenizer, files.chat_template, files.generation_defaults, engine)
    return ServedModel(
        entry,
        model_config,
        own_config.max_position_embeddings,
        engine_config,
        files.generation_defaults,
        llm,
        engine,
    )
