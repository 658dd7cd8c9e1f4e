"""Conversations with a model that recites: answers, interrupts, commands, and a context window that is full."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminal.talking import GivenLines, GivenModels, chat_model, talk
from tests.server.served import TEXT, RecitingEngine, served_model
from transom.cli.answers import AnswerSettings
from transom.cli.responder import Responder
from transom.cli.terminal.chat import Chat
from transom.cli.terminal.commands import COMMANDS
from transom.cli.terminal.conversation import Conversation, whole_characters
from transom.cli.terminal.line_reader import NoLine
from transom.cli.terminal.screen import Screen
from transom.errors import EngineRestartingError
from transom.request import CacheStrategy

Output = pytest.CaptureFixture[str]
SIXTEEN = TEXT.encode()[:16].decode()


@pytest.fixture(scope="module")
def reciting() -> RecitingEngine:
    return RecitingEngine()


@pytest.fixture(scope="module")
def shared(reciting: RecitingEngine) -> Iterator[Responder]:
    yield from chat_model(reciting)


@pytest.fixture
def engine(reciting: RecitingEngine) -> RecitingEngine:
    """As new; of the model that all share, since its template takes a process."""
    for name, value in vars(RecitingEngine()).items():
        setattr(reciting, name, value)
    return reciting


@pytest.fixture
def model(shared: Responder, engine: RecitingEngine) -> Responder:
    return shared


async def test_answers_follow_questions_and_notes_go_elsewhere(model: Responder, capsys: Output) -> None:
    conversation = await talk(model, "one", "", "  ", "two")
    shown = capsys.readouterr()
    assert shown.out == f"{SIXTEEN}\n" * 2
    assert "tiny (chat), context window 256 tokens, attention window full" in shown.err
    assert shown.err.count("16 tokens, ") == 2
    assert [message["content"] for message in conversation.chat.messages] == ["one", SIXTEEN, "two", SIXTEEN]


async def test_quiet_conversations_have_no_figures(model: Responder, capsys: Output) -> None:
    settings = AnswerSettings(max_tokens=16, temperature=0)
    reader = GivenLines(["one"])
    await Conversation(GivenModels(model), reader, Screen(), Chat(), settings, quiet=True).run()
    assert "tokens/s" not in capsys.readouterr().err


async def test_text_whose_characters_are_cut_by_tokens_comes_whole(
    model: Responder, engine: RecitingEngine, capsys: Output
) -> None:
    text = "👩‍👩‍👧 流れる 🇩🇪 e\u0301 done"
    engine.recited = text.encode()
    engine.end_after = len(engine.recited)
    conversation = await talk(model, "hi", settings=AnswerSettings(max_tokens=100, temperature=0))
    assert capsys.readouterr().out == f"{text}\n"
    assert conversation.chat.messages[-1]["content"] == text


async def test_an_interrupt_stops_the_answer_and_what_was_said_stays(
    model: Responder, engine: RecitingEngine, capsys: Output
) -> None:
    engine.holds_after = 6
    before = signal.getsignal(signal.SIGINT)

    async def interrupt() -> None:
        shown = ""
        while "Grüß" not in shown:
            await asyncio.sleep(0.01)
            shown += capsys.readouterr().out
        os.kill(os.getpid(), signal.SIGINT)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(interrupt())
        talking = tasks.create_task(talk(model, "one", NoLine.INTERRUPT))
    conversation = talking.result()
    assert conversation.chat.messages[-1] == {"role": "assistant", "content": "Grüß"}
    assert engine.running == set()
    assert engine.aborted
    shown = capsys.readouterr().err
    assert "stopped; what was said so far stays in the conversation" in shown
    assert "Ctrl-C stops an answer; Ctrl-D or /quit leaves." in shown
    assert signal.getsignal(signal.SIGINT) is before


async def test_a_worker_that_dies_costs_one_answer(model: Responder, engine: RecitingEngine, capsys: Output) -> None:
    engine.fails_after, engine.failure = 4, EngineRestartingError("The worker died.")
    conversation = await talk(model, "one")
    assert "The worker died." in capsys.readouterr().err
    assert conversation.chat.messages[-1]["role"] == "assistant"


async def test_a_full_window_is_said_and_nothing_is_cut(
    model: Responder, engine: RecitingEngine, capsys: Output
) -> None:
    conversation = await talk(model, "a" * 100, "b" * 200)
    shown = capsys.readouterr().err
    assert "tokens and 16 of an answer do not fit into the context window, 256 tokens." in shown
    assert "Nothing was cut. /truncate leaves out the oldest messages" in " ".join(shown.split())
    assert len(engine.requests) == 1
    assert conversation.refused == "b" * 200
    assert len(conversation.chat.messages) == 2


async def test_truncating_says_which_messages_go_and_answers_what_did_not_fit(
    model: Responder, engine: RecitingEngine, capsys: Output
) -> None:
    conversation = await talk(model, "a" * 150, "c" * 10, "b" * 120, "/truncate")
    shown = capsys.readouterr().err
    assert "1. user: " + "a" * 60 + "..." in shown
    assert "Left out, with " in shown
    assert conversation.refused is None
    assert conversation.chat.messages[-2]["content"] == "b" * 120
    assert "a" * 150 not in [message["content"] for message in conversation.chat.messages]
    assert len(engine.requests) == 3


async def test_where_nothing_can_be_left_out_the_refusal_stays(model: Responder, capsys: Output) -> None:
    conversation = await talk(model, "a", "b" * 300, "/truncate")
    assert capsys.readouterr().err.count("do not fit into the context window") == 2
    assert conversation.refused == "b" * 300


async def test_an_answer_that_fills_the_window_says_so(model: Responder, capsys: Output) -> None:
    await talk(model, "a", settings=AnswerSettings(max_tokens=0, temperature=0))
    shown = capsys.readouterr().err
    assert "The context window is full: 256 tokens." in shown
    assert "/truncate" in shown


async def test_undo_retry_and_clear(model: Responder, engine: RecitingEngine, capsys: Output) -> None:
    conversation = await talk(model, "one", "two", "/undo", "/retry", "/undo", "/undo", "/clear")
    assert "Taken back: two" in (shown := capsys.readouterr().err)
    assert "There is nothing to take back." in shown
    assert conversation.chat.is_empty
    assert len(engine.requests) == 3


async def test_more_goes_on_where_the_answer_ended(model: Responder, engine: RecitingEngine) -> None:
    conversation = await talk(model, "/more", "one", "/more")
    assert conversation.chat.messages[-1]["content"] == SIXTEEN * 2
    assert len(conversation.chat.messages) == 2
    assert bytes(engine.requests[1].prompt_token_ids).decode().endswith(f"[assistant]{SIXTEEN}")


async def test_settings_and_strategy_hold_for_later_answers(
    model: Responder, engine: RecitingEngine, capsys: Output
) -> None:
    await talk(
        model, "/set temperature 0.5", "/set seed 3", "/set max_tokens 8", "/set system Be kind.",
        "/strategy keep_first 64 8", "/strategy fifo 9999", "hi", "/strategy",
    )  # fmt: skip
    [request] = engine.requests
    assert (request.sampling.temperature, request.sampling.seed, request.sampling.max_tokens) == (0.5, 3, 8)
    assert request.cache is not None
    assert (request.cache.strategy, request.cache.window_size) == (CacheStrategy.KEEP_FIRST, 64)
    assert bytes(request.prompt_token_ids).decode().startswith("[system]Be kind.[user]hi")
    shown = capsys.readouterr().err
    assert "strategy: keep_first, window of 64 tokens, the first 8 stay" in shown
    assert "must be at most the context window" in " ".join(shown.split())


async def test_the_use_of_the_context_is_shown(model: Responder, capsys: Output) -> None:
    await talk(model, "/context", "one", "/context", "/stats")
    shown = " ".join(capsys.readouterr().err.split())
    assert "conversation 0 of 256 tokens, 0.0%" in shown
    assert "conversation 36 of 256 tokens, 14.1% [######" in shown
    assert "hot tier 2 blocks of 64 tokens in use, 1 kept" in shown
    assert "cold tier 3 blocks of 64 tokens in use, 4 kept" in shown
    assert "prompt 20 tokens, 0 of them cached, 20 computed" in shown


async def test_a_conversation_is_saved_and_loaded(model: Responder, tmp_path: Path, capsys: Output) -> None:
    saved = await talk(model, "one", f"/save {tmp_path}/x")
    loaded = await talk(model, f"/load {tmp_path}/x", f"/load {tmp_path}/y", "/save", f"/save {tmp_path}/no/x")
    assert loaded.chat.messages == saved.chat.messages
    shown = " ".join(capsys.readouterr().err.split())
    assert "Loaded: 2 messages" in shown
    assert "/y: cannot be read: No such file" in shown.replace(" : ", ": ")
    assert "/save needs the name of a file" in shown


async def test_another_model_takes_over_what_was_said(model: Responder, engine: RecitingEngine, capsys: Output) -> None:
    for other in chat_model(more := RecitingEngine(), model_id="other"):
        lines = GivenLines(["one", "/model nowhere", "/model other", "/model", "two"])
        settings = AnswerSettings(max_tokens=16, temperature=0)
        await Conversation(GivenModels(model, other), lines, Screen(), Chat(), settings).run()
    assert bytes(more.requests[0].prompt_token_ids).decode().startswith("[user]one[assistant]")
    shown = capsys.readouterr().err
    assert "'nowhere' is nowhere" in shown
    assert "Others: tiny, other" in shown


async def test_a_model_without_a_template_continues_texts(capsys: Output) -> None:
    served = served_model(engine := RecitingEngine())
    conversation = await talk(Responder(served), "Once", "/more", "/truncate", "/set system x", "Twice")
    assert [bytes(request.prompt_token_ids).decode() for request in engine.requests] == [
        "Once",
        f"Once{SIXTEEN}",
        "Twice",
    ]
    assert conversation.chat.text == f"Twice{SIXTEEN}"
    shown = " ".join(capsys.readouterr().err.split())
    assert "The model has no chat template: every line is completed on its own." in shown
    assert "There are no messages that could be left out." in shown
    assert "a system message needs a model with a chat template" in shown


async def test_help_shows_every_command_and_what_is_none_is_said(model: Responder, capsys: Output) -> None:
    await talk(model, "/help", "/nonsense", "/st", "/stats", "/he")
    shown = capsys.readouterr().err
    for command in COMMANDS:
        assert shown.count(f"\n{command.names[0]} ") == 2 or command.names[0] == "/help"
    assert "/nonsense is no command; /help shows them" in shown
    assert "/st may be /strategy or /stats" in shown


async def test_leaving_ends_the_conversation(model: Responder, engine: RecitingEngine) -> None:
    for word in ("/quit", "/bye", "/exit"):
        await talk(model, word, "one")
    assert engine.requests == []


async def test_commands_and_what_follows_them_are_completed(model: Responder, tmp_path: Path) -> None:
    conversation = await talk(model)
    assert conversation.complete("/st") == ["/strategy", "/stats"]
    assert conversation.complete("/set te") == ["/set temperature"]
    assert conversation.complete("/strategy k") == ["/strategy keep_first"]
    assert conversation.complete("/model ") == ["/model tiny"]
    (tmp_path / "one.json").touch()
    (tmp_path / "two").mkdir()
    assert conversation.complete(f"/load {tmp_path}/") == [f"/load {tmp_path}/one.json", f"/load {tmp_path}/two/"]
    assert conversation.complete(f"/load {tmp_path}/nowhere/x") == []
    assert conversation.complete("hello") == []


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert whole_characters("a\udcffb 🎉") == "a\ufffdb 🎉"
