"""`EngineClient`: the engine as the API process sees it. Asyncio; one event loop, one instance per served model.

Owns the worker process: starts it, routes its outputs to whoever waits for them, and starts it again when it dies. A
dead worker ends its requests with EngineRestartingError at once; nobody waits for a process that is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from transom.config.engine_config import EngineConfig
from transom.config.model_config import ModelConfig
from transom.engine.carried_counters import at_rest, carried_on
from transom.engine.channel import Abort, Heartbeat, Look, Message, Outputs, Refused, Submit, View
from transom.engine.error_data import error_from_data
from transom.engine.mailbox import Mailbox
from transom.engine.reports import EngineStats, EngineView, LoadProgress, LoadReport
from transom.engine.restarts import DELAYS_SECONDS, MAX_RESTARTS, RestartLimit
from transom.engine.watchdog import WatchLimits
from transom.engine.worker_process import WorkerProcess
from transom.errors import (
    ChannelError,
    DrainingError,
    EngineRestartingError,
    ModelLoadingError,
    RequestError,
    TransomError,
    UnavailableError,
)
from transom.request import Request, RequestOutput

logger = logging.getLogger(__name__)


class EngineState(StrEnum):
    """Where the engine stands."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    """It could not be started, or died too often; it is tried again by `start` alone."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """State and, unless all is well, the reason in words."""

    state: EngineState
    reason: str | None = None
    progress: LoadProgress | None = None
    """How far the weights are while it is being started; None until that is known, and for who is quick."""


def _ignore(_: EngineStatus) -> None:
    """Nobody wants to know."""


def _any_files() -> None:
    """Whatever lies there is loaded."""


class EngineClient:
    """Generates by a worker process. `start` it before anything else, `close` it at the end.

    `on_state_change` is called in the event loop, with the new status, and must not raise. `check_files` is called
    before and after each load, and raises WeightsError when the files are not those that `model_config` was read from.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        engine_config: EngineConfig,
        *,
        name: str = "model",
        on_state_change: Callable[[EngineStatus], None] = _ignore,
        check_files: Callable[[], None] = _any_files,
        restart_delays_seconds: Sequence[float] = DELAYS_SECONDS,
        max_restarts: int = MAX_RESTARTS,
        watch_limits: WatchLimits = WatchLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._model_config = model_config
        self._engine_config = engine_config
        self._name = name
        self._on_state_change = on_state_change
        self._check_files = check_files
        self._restart_limit = RestartLimit(restart_delays_seconds, max_restarts)
        self._watch_limits = watch_limits
        self._status = EngineStatus(EngineState.STOPPED)
        self._mailboxes: dict[str, Mailbox] = {}
        self._worker: WorkerProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._report: LoadReport | None = None
        self._stats: EngineStats | None = None
        self._ended_stats: EngineStats | None = None
        self._look: asyncio.Future[EngineView | None] | None = None
        self._last_sign_of_life = 0.0
        self._num_restarts = 0
        self._is_draining = False
        self._all_done = asyncio.Event()

    @property
    def status(self) -> EngineStatus:
        """Where the engine stands now."""
        return self._status

    @property
    def report(self) -> LoadReport | None:
        """What the last load took and gave; None before the first."""
        return self._report

    @property
    def num_restarts(self) -> int:
        """How often a dead worker was replaced."""
        return self._num_restarts

    @property
    def num_requests(self) -> int:
        """Requests that somebody waits for."""
        return len(self._mailboxes)

    @property
    def process_id(self) -> int | None:
        """Of the worker, while there is one."""
        return None if self._worker is None else self._worker.process_id

    @property
    def seconds_since_sign_of_life(self) -> float:
        """Since the worker's last message; it sends one at least every second, but for the length of a step."""
        return time.monotonic() - self._last_sign_of_life

    def stats(self) -> EngineStats | None:
        """The latest statistics of the running worker; None while there is none."""
        return self._stats

    def counted(self) -> EngineStats | None:
        """The same with counters of all workers that there were, which never go back; None before the first spoke.
        While there is no worker, nothing is in use."""
        if self._stats is not None:
            return carried_on(self._ended_stats, self._stats)
        return None if self._ended_stats is None else at_rest(self._ended_stats)

    async def look(self) -> EngineView | None:
        """What the worker sees between two of its steps, which may take as long as a step; None without a worker.

        Whoever asks while an answer is on its way gets that one, so that a worker is asked once at a time. `stats` is
        as new as the view from then on.
        """
        if self._worker is None:
            return None
        if self._look is None:
            self._look = asyncio.get_running_loop().create_future()
            self._send(Look())
        return await asyncio.shield(self._look)

    async def start(self) -> LoadReport:
        """Starts the worker and waits until its model is loaded; raises what kept it from that. May follow `close`."""
        self._is_draining = False
        self._set_status(EngineState.STARTING)
        try:
            worker = await self._start_worker()
        except (TransomError, OSError) as error:
            self._set_status(EngineState.FAILED, str(error))
            raise
        self._supervisor = asyncio.create_task(self._supervise(worker))
        assert self._report is not None
        return self._report

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput]:
        """Outputs until one carries a finish reason. Closing the iterator early aborts the request in the worker.

        The request's id must never have been used before: outputs of an aborted namesake may still be on their way.
        Raises UnavailableError when there is no worker or it dies, RequestError or QueueFullError when it refuses.
        """
        mailbox = self._open_mailbox(request.request_id)
        is_finished = False
        try:
            await self._submit(request)
            while not is_finished:
                output = await mailbox.take()
                is_finished = output.finish_reason is not None
                yield output
        except TransomError:
            is_finished = True
            raise
        finally:
            self._close_mailbox(request.request_id)
            if not is_finished:
                self._send(Abort(request.request_id))

    async def abort(self, request_id: str) -> None:
        """Ends a request; its iterator yields one last output, with finish reason ABORT. Unknown ids are ignored."""
        if request_id in self._mailboxes:
            self._send(Abort(request_id))

    async def close(self, drain_seconds: float = 0.0) -> None:
        """Takes nothing new, lets what runs finish for up to `drain_seconds`, then ends the worker. May be repeated."""
        self._is_draining = True
        if self._mailboxes:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_done.wait(), drain_seconds)
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        if self._worker is not None:  # the supervisor was cancelled before it had begun
            await self._bury(self._worker)
        self._set_status(EngineState.STOPPED)

    async def _supervise(self, worker: WorkerProcess) -> None:
        """Until cancelled, or until the worker has died too often: listens to it, buries it, starts the next one."""
        next_worker: WorkerProcess | None = worker
        while next_worker is not None:
            started = time.monotonic()
            cause = ""
            try:
                cause = await self._listen(next_worker)
            finally:
                ending = await self._bury(next_worker)
            self._restart_limit.worker_lived(time.monotonic() - started)
            next_worker = await self._restart(f"The worker of {self._name} died: {cause}{ending}.")

    async def _listen(self, worker: WorkerProcess) -> str:
        """Routes messages until the worker is gone, hangs, or talks rubbish; the latter two are returned in words."""
        routing = asyncio.create_task(self._route(worker))
        watching = asyncio.create_task(worker.until_hung(lambda: bool(self._mailboxes)))
        try:
            done, _ = await asyncio.wait((routing, watching), return_when="FIRST_COMPLETED")
            return routing.result() if routing in done else f"{watching.result()}, "
        finally:
            for task in (routing, watching):
                task.cancel()
            await asyncio.gather(routing, watching, return_exceptions=True)

    async def _route(self, worker: WorkerProcess) -> str:
        try:
            while (message := await worker.receive()) is not None:
                self._take(message)
        except ChannelError as error:
            return f"{error}, "
        return ""

    async def _bury(self, worker: WorkerProcess) -> str:
        """Fails the requests, then ends the process for sure; how it ended."""
        if self._stats is not None:
            self._ended_stats = carried_on(self._ended_stats, self._stats)
        self._worker, self._stats = None, None
        if not self._is_draining:
            self._set_status(EngineState.RESTARTING, "The worker died.")
        self._fail_requests(self._unavailable())
        self._end_look(None)
        return await worker.stop()

    async def _restart(self, reason: str) -> WorkerProcess | None:
        """Tries until a worker is ready, or it has been tried too often: then None, and the engine has FAILED."""
        while True:
            logger.error("%s", reason)
            self._set_status(EngineState.RESTARTING, reason)
            delay = self._restart_limit.next_delay(time.monotonic())
            if delay is None:
                self._set_status(EngineState.FAILED, f"{reason.removesuffix('.')}. {self._restart_limit.described}.")
                return None
            await asyncio.sleep(delay)
            try:
                worker = await self._start_worker()
            except (TransomError, OSError) as error:
                reason = f"The worker of {self._name} could not be restarted: {error}"
            else:
                self._num_restarts += 1
                return worker

    async def _start_worker(self) -> WorkerProcess:
        self._check_files()
        worker, report = await WorkerProcess.start(
            self._model_config, self._engine_config, self._name, self._watch_limits, self._note_progress
        )
        try:
            self._check_files()
        except BaseException:
            await worker.stop()
            raise
        self._worker, self._report = worker, report
        self._last_sign_of_life = time.monotonic()
        self._set_status(EngineState.READY)
        return worker

    def _take(self, message: Message) -> None:
        self._last_sign_of_life = time.monotonic()
        match message:
            case Outputs(outputs):
                for output in outputs:
                    self._deliver(output)
            case Refused(request_id, error):
                self._refuse(request_id, error_from_data(error))
            case Heartbeat(stats):
                self._stats = stats
            case View(view):
                self._stats = view.stats
                self._end_look(view)
            case _:
                raise ChannelError(f"the worker sent {type(message).__name__}")

    def _end_look(self, view: EngineView | None) -> None:
        look, self._look = self._look, None
        if look is not None:
            look.set_result(view)

    def _deliver(self, output: RequestOutput) -> None:
        """Nobody waits any more for a request that was just aborted; its last outputs are dropped."""
        mailbox = self._mailboxes.get(output.request_id)
        if mailbox is not None:
            mailbox.put(output)

    def _refuse(self, request_id: str, error: TransomError) -> None:
        mailbox = self._mailboxes.get(request_id)
        if mailbox is not None:
            mailbox.fail(error)

    def _fail_requests(self, error: TransomError) -> None:
        for mailbox in self._mailboxes.values():
            mailbox.fail(error)

    async def _submit(self, request: Request) -> None:
        if self._worker is not None:
            await self._worker.send_in_turn(Submit(request))

    def _send(self, message: Message) -> None:
        if self._worker is not None:
            self._worker.send(message)

    def _open_mailbox(self, request_id: str) -> Mailbox:
        if self._is_draining or self._status.state is not EngineState.READY:
            raise self._unavailable()
        if request_id in self._mailboxes:
            raise RequestError(f"A request with the id '{request_id}' is running.", param="request_id")
        self._all_done.clear()
        return self._mailboxes.setdefault(request_id, Mailbox())

    def _close_mailbox(self, request_id: str) -> None:
        del self._mailboxes[request_id]
        if not self._mailboxes:
            self._all_done.set()

    def _unavailable(self) -> UnavailableError:
        if self._is_draining:
            return DrainingError("The server is shutting down.")
        if self._status.state is EngineState.RESTARTING:
            return self._restarting_error()
        return ModelLoadingError(f"{self._name} is not ready: {self._status.reason or self._status.state}.")

    def _restarting_error(self) -> EngineRestartingError:
        return EngineRestartingError(
            f"The worker process of {self._name} died and is being restarted; please try again.",
            retry_after_seconds=2.0,
        )

    def _note_progress(self, progress: LoadProgress) -> None:
        """The state is the same, so nobody is called."""
        self._status = replace(self._status, progress=progress)

    def _set_status(self, state: EngineState, reason: str | None = None) -> None:
        self._status = EngineStatus(state, reason)
        self._on_state_change(self._status)
