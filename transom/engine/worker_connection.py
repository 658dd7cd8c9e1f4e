"""The worker's end of the channel: a non-blocking socket, messages in, messages out. Knows no engine.

The engine must never wait for a slow reader. What the socket does not take at once waits here: control messages in
order, outputs merged per request, so that the backlog is bounded by the requests that run. One owner, no thread.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Iterable

from transom.engine.channel import FrameReader, Message, Outputs, encode
from transom.engine.merging import merge_all
from transom.errors import ChannelError
from transom.request import FinishReason, RequestOutput

_READ_BYTES = 1 << 20
_MAX_READ_BYTES = 8 << 20
"""Taken at once, at most. The socket's own buffer is smaller: no message of this step is left for the next one."""
_BACKLOG_BYTES = 1 << 20
"""Encoded bytes that may wait for the socket before outputs are held back and merged."""


class WorkerConnection:
    """Owns `sock` and closes it. Every method raises ChannelError once the peer is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._reader = FrameReader()
        self._unsent: deque[memoryview] = deque()
        self._held_back: dict[str, RequestOutput] = {}

    def send(self, message: Message) -> None:
        """Queues a control message and sends what the socket takes. Does not block."""
        self._unsent.append(memoryview(encode(message)))
        self.flush()

    def send_outputs(self, outputs: Iterable[RequestOutput]) -> None:
        """Queues outputs and sends what the socket takes. Does not block."""
        self._held_back = merge_all([*self._held_back.values(), *outputs])
        self.flush()

    def flush(self) -> None:
        """Sends what the socket takes. Does not block."""
        self._write()
        if self._held_back and self._num_unsent_bytes < _BACKLOG_BYTES:
            self._unsent.extend(memoryview(frame) for frame in encode_outputs(tuple(self._held_back.values())))
            self._held_back = {}
            self._write()

    def receive(self, timeout_seconds: float) -> list[Message]:
        """Messages that have arrived; waits up to `timeout_seconds` for the first one, and sends meanwhile."""
        events = self._wait(timeout_seconds)
        if events & select.POLLOUT:
            self.flush()
        return self._reader.feed(self._read()) if events & ~select.POLLOUT else []

    def close(self) -> None:
        """Closes the socket; what is unsent is lost."""
        self._socket.close()

    @property
    def is_congested(self) -> bool:
        """The peer reads more slowly than this side writes."""
        return bool(self._unsent)

    def _wait(self, timeout_seconds: float) -> int:
        """The socket's poll events, 0 after the time-out."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        events = poll.poll(timeout_seconds * 1000)
        return events[0][1] if events else 0

    @property
    def _num_unsent_bytes(self) -> int:
        return sum(len(frame) for frame in self._unsent)

    def _write(self) -> None:
        try:
            while self._unsent:
                num_sent = self._socket.send(self._unsent[0])
                self._advance(num_sent)
        except BlockingIOError:
            return
        except OSError as error:
            raise ChannelError(f"the API process is gone: {error}") from error

    def _advance(self, num_bytes: int) -> None:
        rest = self._unsent.popleft()[num_bytes:]
        if rest:
            self._unsent.appendleft(rest)

    def _read(self) -> bytes:
        data = bytearray()
        try:
            while len(data) < _MAX_READ_BYTES:
                piece = self._socket.recv(_READ_BYTES)
                if not piece:
                    raise ChannelError("the API process closed the channel")
                data += piece
        except BlockingIOError:
            return bytes(data)
        except OSError as error:
            raise ChannelError(f"the API process is gone: {error}") from error
        return bytes(data)


def encode_outputs(outputs: tuple[RequestOutput, ...]) -> list[bytes]:
    """As few frames as hold them; an output too large for a frame of its own becomes the error of its request."""
    try:
        return [encode(Outputs(outputs))]
    except ChannelError:
        if len(outputs) == 1:
            return [encode(Outputs((_too_large(outputs[0]),)))]
    middle = len(outputs) // 2
    return encode_outputs(outputs[:middle]) + encode_outputs(outputs[middle:])


def _too_large(output: RequestOutput) -> RequestOutput:
    return RequestOutput(
        output.request_id,
        finish_reason=FinishReason.ERROR,
        usage=output.usage,
        error="The log probabilities of this request are too large to be delivered; ask for fewer.",
    )
