"""Frames: whole, in pieces, damaged, too large."""

from __future__ import annotations

import contextlib
import struct

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import byte_model_config, byte_request, small_engine_config
from transom.cache import BlockRun, Importance, KindWindow, PlaceState, SequenceWindow
from transom.cache.stats import CacheStats, ConvStateStats, KindStats, SequenceStats, TierStats
from transom.config.model_config import LayerKind
from transom.engine.channel import (
    MAX_PAYLOAD_BYTES,
    Abort,
    Configure,
    Failed,
    FrameReader,
    Heartbeat,
    Look,
    Message,
    Outputs,
    Ready,
    Refused,
    Submit,
    View,
    decode,
    encode,
    payload_length,
)
from transom.engine.error_data import error_to_data
from transom.engine.reports import EngineStats, EngineView, LoadReport
from transom.errors import ChannelError, ConfigError, QueueFullError
from transom.request import CacheStrategy, FinishReason, RequestOutput, TokenLogprobs, Usage
from transom.scheduler.stats import SchedulerStats

MESSAGES: list[Message] = [
    Configure(byte_model_config(), small_engine_config()),
    Submit(byte_request("héllo", logit_bias={3: 1.5}, allowed_token_ids=(1, 2), seed=-(2**63), logprobs=2)),
    Abort("r"),
    Ready(LoadReport(1, 2, 3, 4, "avx2", 0.5, 6, 7, 8, 9)),
    Failed(error_to_data(QueueFullError("full"))),
    Refused("r", error_to_data(QueueFullError("full"))),
    Outputs(
        (
            RequestOutput(
                "r",
                (1, 2),
                (TokenLogprobs(1, -0.5, ((1, -0.5), (7, -1.0))),),
                (None, TokenLogprobs(2, -1.0)),
                FinishReason.STOP,
                2,
                Usage(1, 2, 0),
            ),
        )
    ),
    Look(),
    View(
        EngineView(
            EngineStats(SchedulerStats(1, 2, 3, 4, 5, 6, 7), CacheStats(64, 1, 2, (), ()), 1, 0.25, 0),
            (
                SequenceWindow(
                    SequenceStats("r", CacheStrategy.ADAPTIVE, 100, 64, 0, 0),
                    64,
                    (
                        KindWindow(
                            LayerKind.FULL_ATTENTION,
                            2,
                            (BlockRun(PlaceState.COLD, 3), BlockRun(PlaceState.HOT, 1)),
                            ((0, 2),),
                            4,
                            0,
                            Importance(1, (0.25, 0.75)),
                        ),
                    ),
                ),
            ),
        )
    ),
    Heartbeat(
        EngineStats(
            SchedulerStats(1, 2, 3, 4, 5, 6, 7),
            CacheStats(
                64,
                1,
                2,
                (TierStats("hot", 1, 2),),
                (KindStats(LayerKind.FULL_ATTENTION, 1, 2, 3, 4),),
                conv_states=ConvStateStats(1, 2, 3, 4, 5),
            ),
            num_steps=1,
            step_seconds=0.25,
            num_failed=0,
        )
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_round_trip(message: Message) -> None:
    frame = encode(message)
    assert payload_length(frame[:4]) == len(frame) - 4
    assert decode(frame[4:]) == message


@given(st.lists(st.integers(1, 50), max_size=200))
def test_a_stream_cut_anywhere_gives_the_same_messages(cuts: list[int]) -> None:
    stream = b"".join(encode(message) for message in MESSAGES)
    reader, arrived, position = FrameReader(), [], 0
    for size in [*cuts, len(stream)]:
        arrived += reader.feed(stream[position : position + size])
        position += size
    assert arrived == MESSAGES


@given(st.binary(max_size=64))
def test_random_bytes_are_a_channel_error(payload: bytes) -> None:
    with pytest.raises(ChannelError):
        decode(payload)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_flipped_byte_is_an_error_of_ours_or_another_valid_message(message: Message, data: st.DataObject) -> None:
    payload = bytearray(encode(message)[4:])
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ChannelError, ConfigError):
        assert isinstance(decode(payload), Message)


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        ["Abort"],
        ["Abort", ["r"], 1],
        ["Abort", ["r", "s"]],
        ["Abort", [1]],
        ["Nonsense", []],
        [["Abort"], ["r"]],
        {"Abort": ["r"]},
        ["__import__", ["os"]],
    ],
)
def test_payloads_that_are_no_message_are_refused(plain: object) -> None:
    with pytest.raises(ChannelError):
        decode(msgpack.packb(plain))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ChannelError):
        decode(b"\x91" * 100_000 + b"\xc0")


def test_a_payload_with_something_behind_it_is_refused() -> None:
    with pytest.raises(ChannelError):
        decode(encode(Abort("r"))[4:] + b"\x00")


def test_a_frame_that_announces_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(ChannelError, match="larger"):
        FrameReader().feed(struct.pack(">I", MAX_PAYLOAD_BYTES + 1))


def test_a_frame_that_would_be_too_large_is_not_written() -> None:
    with pytest.raises(ChannelError, match="larger"):
        encode(Abort("x" * MAX_PAYLOAD_BYTES))


def test_an_integer_beyond_64_bits_is_not_written() -> None:
    with pytest.raises(ChannelError):
        encode(Submit(byte_request(seed=2**64)))
