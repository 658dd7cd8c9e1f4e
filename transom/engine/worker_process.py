"""One worker process as the API process sees it: started, spoken to, found dead. Knows no requests and no restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import cast

import psutil

from transom.config.engine_config import EngineConfig
from transom.config.model_config import ModelConfig
from transom.engine.channel import (
    HEADER_BYTES,
    Configure,
    Failed,
    Loading,
    Message,
    Ready,
    decode,
    encode,
    payload_length,
)
from transom.engine.error_data import error_from_data
from transom.engine.reports import LoadProgress, LoadReport
from transom.engine.watchdog import BEAT_SECONDS, Watchdog, WatchLimits
from transom.errors import ChannelError, EngineError
from transom.log_lines import read_line

logger = logging.getLogger(__name__)

# Matrix products are done by our own kernels; a second pool of threads would only take memory.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_MAX_BEATS = 1024
"""Taken at once; as many as may have come while this process was blocked."""
_GRACE_SECONDS = 2.0


OnProgress = Callable[[LoadProgress], None]


def _ignore(_: LoadProgress) -> None:
    """Nobody is watching."""


class WorkerProcess:
    """A running worker. Made by `start`; must be given to `stop`, also when it is dead."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        name: str,
        pulse: int,
        limits: WatchLimits,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._name = name
        self._log_task = asyncio.create_task(self._forward_log())
        self._turn = asyncio.Lock()
        self._watchdog = Watchdog(limits)
        self._pulse: int | None = pulse
        asyncio.get_running_loop().add_reader(pulse, self._take_beats)

    @classmethod
    async def start(
        cls,
        model_config: ModelConfig,
        engine_config: EngineConfig,
        name: str,
        limits: WatchLimits = WatchLimits(),  # noqa: B008 - frozen
        on_progress: OnProgress = _ignore,
    ) -> tuple[WorkerProcess, LoadReport]:
        """Starts a process and waits until its model is loaded; `on_progress` hears meanwhile how far it is.

        Raises the worker's own error (ConfigError, WeightsError, ...), or EngineError when it dies or hangs.
        """
        worker = await cls._spawn(name, limits)
        try:
            worker.send(Configure(model_config, engine_config))
            return worker, await worker._load_report_in_time(on_progress)
        except BaseException:
            await worker.stop(grace_seconds=0.0)
            raise

    @property
    def process_id(self) -> int:
        return self._process.pid

    def send(self, message: Message) -> None:
        """Queues a message; to a dead worker it is lost, which `receive` will tell. Does not block."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def send_in_turn(self, message: Message) -> None:
        """As `send`, when the worker has taken what was sent before.

        Long messages that wait here can still be cancelled, and short ones, sent meanwhile, overtake them.
        """
        async with self._turn:
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()
            self.send(message)

    async def receive(self) -> Message | None:
        """The next message; None when the worker is gone. Raises ChannelError for a damaged one."""
        try:
            header = await self._reader.readexactly(HEADER_BYTES)
            message = decode(await self._reader.readexactly(payload_length(header)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self._watchdog.take_message()
        return message

    async def until_hung(self, has_work: Callable[[], bool]) -> str:
        """Kills the worker when it must be given up, and returns why, in words that begin with "it"."""
        while (complaint := self._complaint(has_work())) is None:  # noqa: ASYNC110
            await asyncio.sleep(BEAT_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return complaint

    def _complaint(self, has_work: bool) -> str | None:
        try:
            times = psutil.Process(self.process_id).cpu_times()
        except psutil.Error:  # it is gone, which `receive` tells
            return None
        return self._watchdog.complaint(has_work=has_work, processor_seconds=times.user + times.system)

    async def stop(self, grace_seconds: float = _GRACE_SECONDS) -> str:
        """Closes the channel, kills the process if that does not end it in time, and says how it ended."""
        self._writer.close()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_seconds)
        finally:  # also when the caller is cancelled: no process is left behind
            code = await self._kill()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    async def _kill(self) -> int:
        """Ends the process if it still runs, and waits for everything that belongs to it; its exit code."""
        self._stop_listening_for_beats()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        code = await self._process.wait()
        await self._log_task
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        return code

    @classmethod
    async def _spawn(cls, name: str, limits: WatchLimits) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        pulse, beats = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with theirs, os.fdopen(beats, "wb", buffering=0):
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            creating = asyncio.ensure_future(_create_process(theirs.fileno(), beats))
            try:
                # A creation that is cancelled half way can leave a process that nobody owns; so it is never cancelled.
                await asyncio.shield(creating)
            except asyncio.CancelledError:
                await cls(await creating, reader, writer, name, pulse, limits).stop(grace_seconds=0.0)
                raise
            except BaseException:
                writer.close()
                os.close(pulse)
                raise
        return cls(creating.result(), reader, writer, name, pulse, limits)

    def _take_beats(self) -> None:
        assert self._pulse is not None
        if os.read(self._pulse, _MAX_BEATS):
            self._watchdog.take_beat()
        else:
            self._stop_listening_for_beats()

    def _stop_listening_for_beats(self) -> None:
        if self._pulse is not None:
            asyncio.get_running_loop().remove_reader(self._pulse)
            os.close(self._pulse)
            self._pulse = None

    async def _load_report_in_time(self, on_progress: OnProgress) -> LoadReport:
        loading = asyncio.create_task(self._load_report(on_progress))
        watching = asyncio.create_task(self.until_hung(lambda: False))
        try:
            await asyncio.wait((loading, watching), return_when="FIRST_COMPLETED")
            if watching.done():
                raise EngineError(f"The worker of {self._name} was killed while loading: {watching.result()}.")
            self._watchdog.take_ready()
            return loading.result()
        finally:
            for task in (loading, watching):
                task.cancel()
            await asyncio.gather(loading, watching, return_exceptions=True)

    async def _load_report(self, on_progress: OnProgress) -> LoadReport:
        while isinstance(message := await self.receive(), Loading):
            on_progress(message.progress)
        match message:
            case Ready(report):
                return report
            case Failed(error):
                raise error_from_data(error)
            case None:
                raise EngineError(f"The worker of {self._name} died while loading its model: {await self.stop(0.5)}.")
            case _:
                raise ChannelError(f"the worker began with {type(message).__name__}")

    async def _forward_log(self) -> None:
        """The worker's lines become ours, at their level; what is no log line is a trace of trouble."""
        lines = cast(asyncio.StreamReader, self._process.stderr)
        while line := await _read_line(lines):
            record = read_line(line)
            if record is None:
                logger.warning("the worker wrote: %s", line, extra={"model": self._name})
                continue
            record.model = self._name
            if (origin := logging.getLogger(record.name)).isEnabledFor(record.levelno):
                origin.handle(record)


def _log_level() -> str:
    """What is not logged here need not be written there."""
    level = min(max(logger.getEffectiveLevel(), logging.DEBUG), logging.CRITICAL)
    return str(logging.getLevelName(level // 10 * 10)).lower()


async def _create_process(socket_fd: int, pulse_fd: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "transom.engine.worker", str(socket_fd), str(pulse_fd), _log_level()),
        pass_fds=(socket_fd, pulse_fd),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **_ENVIRONMENT},
        start_new_session=True,  # what a terminal sends to its foreground group is for the parent alone
    )


async def _read_line(lines: asyncio.StreamReader) -> str:
    """The next line that is not empty, without its end; "" at the end of the stream. A huge line comes in pieces."""
    while True:
        try:
            data = await lines.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial.decode(errors="replace").strip()
        except asyncio.LimitOverrunError as error:
            data = await lines.readexactly(error.consumed)
        if text := data.decode(errors="replace").rstrip():
            return text
