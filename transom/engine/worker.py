"""The worker process: `python -m transom.engine.worker SOCKET PIPE LOG_LEVEL`. Owns an engine and what is around it.

It is told what to load by the first message on the inherited socket, answers Ready or Failed, and then serves until the
peer closes the channel or vanishes. One thread does everything, but for the beats that another one writes into the pipe
(`watchdog`); a step is never interrupted, messages are taken between steps. It dies with its parent, and leaves Ctrl-C
and SIGTERM to it, so that a parent that drains keeps its workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable

from transom.engine.channel import (
    Abort,
    Configure,
    Failed,
    Heartbeat,
    Loading,
    Look,
    Message,
    Ready,
    Refused,
    Submit,
    View,
)
from transom.engine.engine import Engine
from transom.engine.error_data import error_to_data
from transom.engine.model_loader import load_engine
from transom.engine.reports import LoadProgress, LoadReport
from transom.engine.watchdog import start_beating
from transom.engine.worker_connection import WorkerConnection
from transom.errors import ChannelError, TransomError
from transom.log_lines import set_up_logging
from transom.request import Request

HEARTBEAT_SECONDS = 0.5
PROGRESS_SECONDS = 0.1

_PR_SET_PDEATHSIG = 1
_FIRST_MESSAGE_SECONDS = 60.0

logger = logging.getLogger("transom.engine.worker")


def main() -> int:
    """Runs until the API process closes the channel (exit code 0), or reports why the model cannot be loaded (1)."""
    _prepare_process(log_level=sys.argv[3])
    connection = WorkerConnection(socket.socket(fileno=int(sys.argv[1])))
    start_beating(int(sys.argv[2]))
    try:
        engine, report = _load(connection)
        with contextlib.closing(engine):  # nobody's keys and values stay on disk
            connection.send(Ready(report))
            serve(connection, engine)
    except ChannelError as error:
        logger.info("the worker ends: %s", error)
    except TransomError as error:
        with contextlib.suppress(ChannelError):
            connection.send(Failed(error_to_data(error)))
        return 1
    return 0


def serve(connection: WorkerConnection, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
    """The loop: messages, one step, outputs. Uses no processor time while there is nothing to do.

    Never returns; raises ChannelError when the peer is gone or sends rubbish.
    """
    pulse = _Pulse(connection, engine, clock)
    pulse.beat_when_due()
    while True:
        for message in connection.receive(0.0 if engine.has_work() else HEARTBEAT_SECONDS):
            _take(connection, engine, message)
        connection.send_outputs(engine.step())
        pulse.beat_when_due()


class _Pulse:
    """Heartbeats at fixed distances, and one as soon as the engine falls idle, so that idle statistics are true."""

    def __init__(self, connection: WorkerConnection, engine: Engine, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._engine = engine
        self._clock = clock
        self._due = clock()
        self._was_busy = False

    def beat_when_due(self) -> None:
        is_busy = self._engine.has_work()
        fell_idle, self._was_busy = self._was_busy and not is_busy, is_busy
        if (fell_idle or self._clock() >= self._due) and not self._connection.is_congested:
            self._connection.send(Heartbeat(self._engine.stats()))
            self._due = self._clock() + HEARTBEAT_SECONDS


class LoadingNews:
    """Tells how far the weights are, at fixed distances: small models need no news."""

    def __init__(self, connection: WorkerConnection, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._due = clock() + PROGRESS_SECONDS

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        if self._clock() >= self._due:
            self._connection.send(Loading(LoadProgress(done_bytes, total_bytes)))
            self._due = self._clock() + PROGRESS_SECONDS


def _load(connection: WorkerConnection) -> tuple[Engine, LoadReport]:
    """The engine that the first message describes."""
    configuration = _configuration(connection)
    return load_engine(configuration.model_config, configuration.engine_config, LoadingNews(connection))


def _configuration(connection: WorkerConnection) -> Configure:
    """Reads until a whole message is there; nothing else may come before it or with it."""
    deadline = time.monotonic() + _FIRST_MESSAGE_SECONDS
    while time.monotonic() < deadline:
        match connection.receive(HEARTBEAT_SECONDS):
            case []:
                continue
            case [Configure() as configuration]:
                return configuration
            case _:
                break
    raise ChannelError("the first message was not a configuration")


def _take(connection: WorkerConnection, engine: Engine, message: Message) -> None:
    match message:
        case Submit(request):
            _submit(connection, engine, request)
        case Abort(request_id):
            output = engine.abort(request_id)
            connection.send_outputs(() if output is None else (output,))
        case Look():
            connection.send(View(engine.view()))
        case _:
            raise ChannelError(f"a worker does not take {type(message).__name__}")


def _submit(connection: WorkerConnection, engine: Engine, request: Request) -> None:
    try:
        engine.add(request)
    except TransomError as error:
        connection.send(Refused(request.request_id, error_to_data(error)))


def _prepare_process(log_level: str) -> None:
    """Never outlives its parent, writes a trace when it crashes, and logs to stderr, which the parent reads."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    set_up_logging(log_level, as_json=True)


if __name__ == "__main__":
    sys.exit(main())
