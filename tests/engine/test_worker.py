"""The worker's loop and its end of the channel, in a thread, with the fake model."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.fakes import SuccessorModel, byte_model_config, byte_request, small_engine_config
from transom.engine.channel import (
    Abort,
    FrameReader,
    Heartbeat,
    Loading,
    Message,
    Outputs,
    Ready,
    Refused,
    Submit,
    encode,
)
from transom.engine.engine import Engine
from transom.engine.error_data import error_from_data
from transom.engine.merging import merge_all
from transom.engine.reports import LoadProgress, LoadReport
from transom.engine.worker import LoadingNews, serve
from transom.engine.worker_connection import WorkerConnection, encode_outputs
from transom.errors import ChannelError, RequestError
from transom.request import FinishReason, RequestOutput, TokenLogprobs


class Peer:
    """The API process's end, blocking, for tests."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(5.0)
        self._reader = FrameReader()
        self.messages: list[Message] = []

    def send(self, *messages: Message) -> None:
        self.socket.sendall(b"".join(encode(message) for message in messages))

    def read(self) -> None:
        self.messages += self._reader.feed(self.socket.recv(1 << 16))

    def outputs(self) -> dict[str, RequestOutput]:
        """Everything said so far, merged per request."""
        return merge_all(each for message in self.messages if isinstance(message, Outputs) for each in message.outputs)

    def read_until_finished(self, *request_ids: str) -> dict[str, RequestOutput]:
        while not all(
            (output := self.outputs().get(request_id)) and output.finish_reason for request_id in request_ids
        ):
            self.read()
        return self.outputs()

    def heartbeats(self) -> list[Heartbeat]:
        return [message for message in self.messages if isinstance(message, Heartbeat)]


class Serving:
    """A worker loop in a thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.peer = Peer(ours)
        self.model = SuccessorModel()
        self.engine = Engine.of(self.model, byte_model_config(), small_engine_config())
        self.connection = WorkerConnection(theirs)
        self.ended_by: ChannelError | None = None
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            serve(self.connection, self.engine)
        except ChannelError as error:
            self.ended_by = error

    def stop(self) -> None:
        self.model.may_run.set()
        self.peer.socket.close()
        self.thread.join(5.0)
        self.connection.close()
        assert not self.thread.is_alive()


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    with contextlib.closing(serving.peer.socket):
        yield serving
        serving.stop()


def test_a_request_is_answered(serving: Serving) -> None:
    serving.peer.send(Submit(byte_request("abc", max_tokens=3)))
    output = serving.peer.read_until_finished("r")["r"]
    assert bytes(output.token_ids) == b"def"
    assert output.finish_reason is FinishReason.LENGTH


def test_fifty_requests_at_once_are_all_answered(serving: Serving) -> None:
    ids = [str(n) for n in range(50)]
    serving.peer.send(*[Submit(byte_request("a", request_id=each, max_tokens=20)) for each in ids])
    outputs = serving.peer.read_until_finished(*ids)
    assert {bytes(output.token_ids) for output in outputs.values()} == {b"bcdefghijklmnopqrstu"}


def test_a_refused_request_is_said_with_its_reason(serving: Serving) -> None:
    serving.peer.send(Submit(byte_request("a", logit_bias={999: 1.0})))
    while not any(isinstance(message, Refused) for message in serving.peer.messages):
        serving.peer.read()
    [refused] = [message for message in serving.peer.messages if isinstance(message, Refused)]
    error = error_from_data(refused.error)
    assert isinstance(error, RequestError)
    assert error.param == "logit_bias"


def test_an_abort_is_taken_within_one_step(serving: Serving) -> None:
    serving.model.may_run.clear()
    serving.peer.send(Submit(byte_request("abc", max_tokens=4000, ignore_eos=True)))
    serving.peer.send(Abort("r"), Abort("unknown"))
    serving.model.may_run.set()
    output = serving.peer.read_until_finished("r")["r"]
    assert output.finish_reason is FinishReason.ABORT
    assert len(output.token_ids) <= 1


def test_a_heartbeat_comes_at_once_then_regularly_and_when_the_engine_falls_idle(serving: Serving) -> None:
    started = time.monotonic()
    while len(serving.peer.heartbeats()) < 2:
        serving.peer.read()
    assert time.monotonic() - started < 1.5
    serving.peer.send(Submit(byte_request("abc", max_tokens=3)))
    serving.peer.read_until_finished("r")
    while serving.peer.heartbeats()[-1].stats.scheduler.num_generated_tokens < 3:
        serving.peer.read()
    assert serving.peer.heartbeats()[-1].stats.cache.num_bytes_used == 0


def test_an_idle_worker_uses_no_processor_time(serving: Serving) -> None:
    serving.peer.read()
    before = time.process_time()
    time.sleep(0.6)
    assert time.process_time() - before < 0.1


def test_a_peer_that_vanishes_ends_the_loop_even_in_the_middle_of_work(serving: Serving) -> None:
    serving.peer.send(Submit(byte_request("abc", max_tokens=4000, ignore_eos=True)))
    serving.peer.read()
    serving.peer.socket.close()
    serving.thread.join(2.0)
    assert not serving.thread.is_alive()
    assert serving.ended_by is not None


@pytest.mark.parametrize("rubbish", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x02\x91\xc0"])
def test_a_peer_that_talks_rubbish_ends_the_loop(serving: Serving, rubbish: bytes) -> None:
    serving.peer.socket.sendall(rubbish)
    serving.thread.join(2.0)
    assert isinstance(serving.ended_by, ChannelError)


def test_a_message_that_is_not_for_workers_ends_the_loop(serving: Serving) -> None:
    serving.peer.send(Ready(LoadReport(0, 0, 0, 1, "portable", 0.0, 1, 1, 1, 1)))
    serving.thread.join(2.0)
    assert isinstance(serving.ended_by, ChannelError)


def test_a_reader_that_sleeps_never_blocks_the_engine_and_loses_nothing(serving: Serving) -> None:
    ids = [str(n) for n in range(8)]
    sampling = {"max_tokens": 700, "ignore_eos": True, "logprobs": 20}
    serving.peer.send(*[Submit(byte_request("a", request_id=each, **sampling)) for each in ids])
    deadline = time.monotonic() + 20
    while serving.engine.has_work() or serving.engine.stats().num_steps == 0:
        assert time.monotonic() < deadline, "the engine waits for its reader"
        time.sleep(0.01)
    outputs = serving.peer.read_until_finished(*ids)
    expected = bytes((ord("a") + 1 + i) % 256 for i in range(700))
    assert {bytes(output.token_ids) for output in outputs.values()} == {expected}
    assert all(len(output.logprobs or ()) == 700 for output in outputs.values())
    num_frames = sum(isinstance(message, Outputs) for message in serving.peer.messages)
    assert num_frames < 700, "what waits is merged"


def test_outputs_too_large_for_one_frame_travel_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transom.engine.channel.MAX_PAYLOAD_BYTES", 2000)
    small = [RequestOutput(str(n), tuple(range(100))) for n in range(20)]
    huge = RequestOutput("huge", (1,), (TokenLogprobs(1, -1.0, tuple((i, -1.0) for i in range(500))),))
    reader = FrameReader()
    frames = encode_outputs((*small, huge))
    messages = [message for frame in frames for message in reader.feed(frame)]
    arrived = [each for message in messages if isinstance(message, Outputs) for each in message.outputs]
    assert len(frames) > 1
    assert arrived[:-1] == small
    assert arrived[-1].finish_reason is FinishReason.ERROR
    assert arrived[-1].error


def test_news_of_a_load_come_at_fixed_distances() -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(WorkerConnection(theirs)) as connection:
        peer = Peer(ours)
        times = iter([0.0, 0.05, 0.1, 0.1, 0.15, 0.3, 0.3])
        tell = LoadingNews(connection, clock=lambda: next(times))
        for done in (10, 20, 30, 40):
            tell(done, 40)
        peer.read()
    ours.close()
    assert [each.progress for each in peer.messages if isinstance(each, Loading)] == [
        LoadProgress(20, 40),
        LoadProgress(40, 40),
    ]
