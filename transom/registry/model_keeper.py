"""`ModelKeeper`: does what `Residency` decides. Starts and ends engines, and wakes the requests that wait for them.

Lives in the event loop's thread. Owns the tasks that load and unload, and the tick; knows no HTTP and no model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from transom.engine import EngineState
from transom.errors import DrainingError, EngineError, ModelLoadingError, TransomError
from transom.registry.model_slot import ModelSlot, SlotState, Ticket
from transom.registry.residency import Load, Residency
from transom.registry.served_model import Engine

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""Idle models, models that have died and queues that are stuck are seen so late."""


class ModelKeeper:
    """The engines of all models, by id, each started and closed by nobody else."""

    def __init__(self, engines: Mapping[str, Engine], residency: Residency, *, load_wait_seconds: float) -> None:
        self._engines = dict(engines)
        self._residency = residency
        self._load_wait_seconds = load_wait_seconds
        self._settled: dict[Ticket, asyncio.Event] = {}
        self._unloaded: dict[str, asyncio.Event] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._is_closing = False
        self._take_running_engines()

    def slot(self, model_id: str) -> ModelSlot:
        """For looking at."""
        return self._residency.slot(model_id)

    def idle_seconds(self, model_id: str) -> float | None:
        """Since when a loaded model has had no request; None for one that has some, or is not loaded."""
        return self._residency.idle_seconds(model_id)

    def check(self, model_id: str) -> None:
        """Raises at once what `use` would raise at once."""
        self._bury_the_dead()
        self._residency.check(model_id)

    @asynccontextmanager
    async def use(self, model_id: str) -> AsyncIterator[None]:
        """The model is loaded, and stays so, within this context; waits for that, `load_wait_seconds` at most.

        Raises ModelLoadingError when it takes longer, with the reason when the load fails, and QueueFullError when too
        many requests wait already.
        """
        ticket = await self._admitted(model_id, self._load_wait_seconds)
        try:
            yield
        finally:
            self._leave(ticket)

    async def load(self, model_id: str) -> None:
        """Loads a model, however long that takes and however often it has failed. Raises what kept it from that."""
        self._start_ticking()
        try:
            self._leave(await self._admitted(model_id, None))
        except ModelLoadingError:
            failure = self._residency.slot(model_id).failure
            raise failure if failure is not None else EngineError(f"{model_id} was not loaded.") from None

    async def unload(self, model_id: str) -> None:
        """Waits until the model's requests have ended and its process is gone; nothing happens to one that is not
        loaded."""
        self._residency.ask_unload(model_id)
        self._pump()
        if self._residency.slot(model_id).is_to_unload:
            await self._unloaded.setdefault(model_id, asyncio.Event()).wait()
            self._unloaded.pop(model_id, None)

    async def close(self, drain_seconds: float = 0.0) -> None:
        """Ends everything; what runs may go on for up to `drain_seconds`. The last call."""
        self._is_closing = True
        tasks = [*self._work, *([self._ticker] if self._ticker is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for ticket in self._settled:
            ticket.error = ticket.error or DrainingError("The server is shutting down.", retry_after_seconds=5.0)
        self._wake()
        await asyncio.gather(*(engine.close(drain_seconds) for engine in self._engines.values()))

    async def _admitted(self, model_id: str, wait_seconds: float | None) -> Ticket:
        if self._is_closing:
            raise DrainingError("The server is shutting down.", retry_after_seconds=5.0)
        self._bury_the_dead()
        ticket = self._residency.arrive(model_id, insists=wait_seconds is None)
        self._pump()
        try:
            if ticket.is_waiting:
                await self._until_settled(ticket, wait_seconds)
        except BaseException:
            self._leave(ticket)
            raise
        if ticket.error is not None:
            raise ticket.error
        return ticket

    async def _until_settled(self, ticket: Ticket, wait_seconds: float | None) -> None:
        self._start_ticking()
        event = self._settled[ticket] = asyncio.Event()
        try:
            await asyncio.wait_for(event.wait(), wait_seconds)
        except TimeoutError:
            if ticket.is_waiting:
                raise ModelLoadingError(
                    f"The model '{ticket.model_id}' was not loaded within {wait_seconds:g} seconds.",
                    retry_after_seconds=2.0,
                ) from None
        finally:
            del self._settled[ticket]

    def _leave(self, ticket: Ticket) -> None:
        self._residency.leave(ticket)
        self._pump()

    def _pump(self) -> None:
        """Begins what is due and wakes whoever has been admitted."""
        if not self._is_closing:
            for action in self._residency.due():
                work = self._load if isinstance(action, Load) else self._unload
                self._begin(work(action.model_id))
        self._wake()

    def _wake(self) -> None:
        for ticket, event in self._settled.items():
            if not ticket.is_waiting:
                event.set()
        for model_id, event in self._unloaded.items():
            if not self._residency.slot(model_id).is_to_unload:
                event.set()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _load(self, model_id: str) -> None:
        logger.info("loading %s", model_id)
        try:
            await self._engines[model_id].start()
        except (TransomError, OSError) as error:
            self._residency.load_failed(model_id, error)
        except Exception:
            logger.exception("loading %s failed", model_id)
            self._residency.load_failed(model_id, EngineError("an unexpected error, which is in the log"))
        else:
            self._residency.load_succeeded(model_id)
        finally:
            self._pump()

    async def _unload(self, model_id: str) -> None:
        logger.info("unloading %s", model_id)
        try:
            await self._engines[model_id].close()
        finally:
            self._residency.unloaded(model_id)
            self._pump()

    def _take_running_engines(self) -> None:
        """Engines that somebody has started, or tried to start, before they were given here."""
        for model_id, engine in self._engines.items():
            status = engine.status
            if status.state in (EngineState.READY, EngineState.RESTARTING):
                self._residency.load_succeeded(model_id)
            elif status.state is EngineState.FAILED:
                self._residency.load_failed(model_id, EngineError(status.reason or "it has failed"))

    def _bury_the_dead(self) -> None:
        """An engine that has given up restarting its worker has nothing left in RAM."""
        for model_id, engine in self._engines.items():
            status = engine.status
            if status.state is EngineState.FAILED and self._residency.slot(model_id).state is SlotState.LOADED:
                self._residency.load_failed(model_id, EngineError(status.reason or "it has failed"))

    def _start_ticking(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self._bury_the_dead()
            self._pump()
            await asyncio.sleep(TICK_SECONDS)
