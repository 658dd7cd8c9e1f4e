"""One served model: its entry, its limits, its text interface and the engine behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from transom.cache import KVSizes
from transom.config.engine_config import EngineConfig
from transom.config.model_config import GenerationDefaults, ModelConfig
from transom.config.pooling_config import PoolingConfig
from transom.config.registry_config import ModelEntry
from transom.engine import EngineState, EngineStats, EngineStatus, EngineView, LoadReport
from transom.errors import EngineRestartingError, ModelLoadingError
from transom.llm import LLM
from transom.request import CacheOptions, CacheStrategy, Request, RequestOutput


class ModelState(StrEnum):
    """Where a served model stands, in the words of `/v1/models`."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"


_STATES = {
    EngineState.STARTING: ModelState.LOADING,
    EngineState.READY: ModelState.LOADED,
    EngineState.RESTARTING: ModelState.LOADING,
    EngineState.FAILED: ModelState.FAILED,
    EngineState.STOPPED: ModelState.UNLOADED,
}


class Engine(Protocol):
    """What is needed of an `EngineClient`."""

    @property
    def status(self) -> EngineStatus: ...
    @property
    def report(self) -> LoadReport | None: ...
    @property
    def num_restarts(self) -> int: ...
    @property
    def process_id(self) -> int | None: ...
    def stats(self) -> EngineStats | None: ...
    def counted(self) -> EngineStats | None: ...
    async def look(self) -> EngineView | None: ...
    async def start(self) -> LoadReport: ...
    def generate(self, request: Request) -> AsyncIterator[RequestOutput]: ...
    async def abort(self, request_id: str) -> None: ...
    async def close(self, drain_seconds: float = 0.0) -> None: ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that requests can name. Lives in the event loop's thread."""

    entry: ModelEntry
    model_config: ModelConfig
    """As served: context and attention windows already lowered by the entry."""
    own_context_window: int
    """What the architecture was made for, in tokens."""
    engine_config: EngineConfig
    generation_defaults: GenerationDefaults
    llm: LLM
    engine: Engine
    ram_bytes: int = 0
    """What it counts against the RAM of all models: its cap or, without one, weights + KV + workspace."""
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    """How a text becomes a vector; the entry's choice is in it."""

    @property
    def id(self) -> str:
        """The name in answers."""
        return self.entry.id

    @property
    def state(self) -> ModelState:
        """Where it stands now."""
        return _STATES[self.engine.status.state]

    @property
    def is_ready(self) -> bool:
        """It is loaded and answers at once."""
        return self.engine.status.state is EngineState.READY

    @property
    def can_be_asked(self) -> bool:
        """It is loaded, or will be when it is asked."""
        return self.engine.status.state in (EngineState.READY, EngineState.STOPPED)

    @property
    def kv_sizes(self) -> KVSizes:
        """How much of the KV budgets sequences take; known before the model is loaded."""
        return KVSizes.of(self.model_config, self.engine_config)

    def max_request_tokens(self, cache: CacheOptions) -> int:
        """The longest request, prompt and completion, that the window and the KV budgets can ever hold.

        What forgets needs no more room than its window, however long it grows; without a report nothing is known of
        the budgets. Admission has the last word.
        """
        window, report = self.llm.context_window, self.engine.report
        if report is None or report.max_sequence_tokens >= window:
            return window
        return window if self._forgets_in_time(cache, report.max_sequence_tokens) else report.max_sequence_tokens

    def _forgets_in_time(self, cache: CacheOptions, num_held_tokens: int) -> bool:
        """Whether a sequence begins to forget before `num_held_tokens` are exceeded."""
        match cache.strategy:
            case CacheStrategy.FULL:
                return False
            case CacheStrategy.ADAPTIVE:
                return not self.engine_config.has_cold_tier
            case CacheStrategy.FIFO:
                return True
            case _:
                return cache.window_size is not None and cache.window_size <= num_held_tokens

    def check_ready(self) -> None:
        """Raises `UnavailableError` with the reason when it is not loaded."""
        status = self.engine.status
        if status.state is EngineState.READY:
            return
        if status.state is EngineState.RESTARTING:
            raise EngineRestartingError(f"The model '{self.id}' is being restarted.", retry_after_seconds=2.0)
        if status.state is EngineState.STARTING:
            raise ModelLoadingError(f"The model '{self.id}' is being loaded.", retry_after_seconds=2.0)
        if status.state is EngineState.STOPPED:
            raise ModelLoadingError(f"The model '{self.id}' is not loaded.", retry_after_seconds=2.0)
        raise ModelLoadingError(f"The model '{self.id}' could not be loaded: {status.reason}", retry_after_seconds=60.0)

    def status_fields(self) -> dict[str, str]:
        """State and, unless all is well, the reason."""
        reason = self.engine.status.reason
        fields = {"status": self.state.value}
        return fields if reason is None else {**fields, "reason": reason}
