"""A conversation with a server's model is one with a model of this program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.cli.terminal.talking import TEMPLATE, GivenLines
from tests.server.served import TEXT, RecitingEngine, served_model
from transom.cli.answers import AnswerSettings, Asked, Ending, Limit, Models, PromptProgress
from transom.cli.terminal.chat import Chat
from transom.cli.terminal.conversation import Conversation
from transom.cli.terminal.remote_models import RemoteModels
from transom.cli.terminal.screen import Screen
from transom.errors import ConfigError, ModelNotFoundError, RequestError, UnavailableError
from transom.llm.chat_events import ContentPiece
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.settings import ServerSettings

SIXTEEN = TEXT.encode()[:16].decode()
GREEDY = AnswerSettings(max_tokens=16, temperature=0)


@pytest.fixture(scope="module")
def engine() -> RecitingEngine:
    return RecitingEngine()


@pytest.fixture
async def models(engine: RecitingEngine) -> AsyncIterator[RemoteModels]:
    chat = served_model(engine, template=TEMPLATE)
    text = served_model(engine, model_id="text", aliases=())
    app = create_app(ModelRegistry([chat, text]), ServerSettings(api_keys=("secret",)))
    transport = httpx2.ASGITransport(app)
    models = RemoteModels("http://localhost", "secret", complete=False, transport=transport)
    engine.requests.clear()
    yield models
    await models.close()
    for served in (chat, text):
        served.llm.close()


async def talk(models: Models, *lines: str, settings: AnswerSettings = GREEDY) -> Conversation:
    conversation = Conversation(models, GivenLines(lines), Screen(), Chat(), settings)
    await conversation.run()
    return conversation


async def test_questions_commands_and_figures(
    models: RemoteModels, engine: RecitingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    await models.open("", lambda done, total: None)
    conversation = await talk(models, "one", "/context", "/stats", "/more", "/strategy sliding_window 64", "two")
    assert conversation.chat.messages[1]["content"] == SIXTEEN * 2
    shown = capsys.readouterr()
    assert shown.out == f"{SIXTEEN}\n" * 3
    words = " ".join(shown.err.split())
    assert "tiny (chat) at http://localhost, context window 256 tokens." in words
    assert "conversation 36 of 256 tokens" in words
    assert "hot tier 2 blocks of 64 tokens in use, 1 kept" in words
    assert "strategy: sliding_window, window_size 64" in words
    assert models.names() == ["tiny", "text"]


async def test_a_full_window_and_truncation(models: RemoteModels, capsys: pytest.CaptureFixture[str]) -> None:
    await models.open("tiny", lambda done, total: None)
    conversation = await talk(models, "a" * 150, "c" * 10, "b" * 120, "/truncate")
    shown = capsys.readouterr().err
    assert "Nothing was cut." in shown
    assert "1. user: aaa" in shown
    assert conversation.chat.messages[-2]["content"] == "b" * 120


async def test_texts_are_continued(models: RemoteModels, engine: RecitingEngine) -> None:
    await models.open("text", lambda done, total: None)
    conversation = await talk(models, "Once", "/more", settings=AnswerSettings(temperature=0))
    assert bytes(engine.requests[0].prompt_token_ids).decode() == "Once"
    assert engine.requests[0].sampling.max_tokens == 252
    assert conversation.chat.text.startswith(f"Once{TEXT}")


async def test_an_open_answer_ends_at_the_limit_that_it_had(models: RemoteModels) -> None:
    await models.open("text", lambda done, total: None)
    asked = Asked(text="Once")
    pieces = [piece async for piece in models.current.answer(asked, AnswerSettings(max_tokens=0, temperature=0))]
    assert isinstance(pieces[0], PromptProgress)
    ending = pieces[-1]
    assert isinstance(ending, Ending)
    assert (ending.limit, ending.max_tokens, ending.usage.num_completion_tokens) == (Limit.WINDOW, 252, 252)
    assert "".join(piece.text for piece in pieces if isinstance(piece, ContentPiece)).startswith(TEXT)


async def test_refusals_come_with_their_codes(models: RemoteModels) -> None:
    with pytest.raises(ModelNotFoundError, match=r"The model .x. does not exist. Served models: tiny, text"):
        await models.open("x", lambda done, total: None)
    await models.open("text", lambda done, total: None)
    with pytest.raises(RequestError) as refused:
        async for _ in models.current.answer(Asked(text="x" * 300), AnswerSettings()):
            pass
    assert refused.value.code == "context_length_exceeded"


async def test_a_wrong_key_and_no_server_are_one_clear_error(engine: RecitingEngine) -> None:
    app = create_app(ModelRegistry([served_model(engine)]), ServerSettings(api_keys=("secret",)))
    for key in (None, "wrong"):
        stranger = RemoteModels("http://localhost", key, complete=False, transport=httpx2.ASGITransport(app))
        with pytest.raises(RequestError, match="key"):
            await stranger.open("", lambda done, total: None)
        await stranger.close()
    nobody = RemoteModels("http://127.0.0.1:1", None, complete=False)
    with pytest.raises(UnavailableError, match=r"http://127.0.0.1:1 cannot be asked"):
        await nobody.open("", lambda done, total: None)
    await nobody.close()
    with pytest.raises(ConfigError, match="is not the address of a server"):
        RemoteModels("127.0.0.1:1", None, complete=False)


def answering(paths: dict[str, object]) -> RemoteModels:
    """Models of something that answers these paths like this, and all others with an empty object."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        found = paths.get(request.url.path, {})
        return httpx2.Response(200, **({"text": found} if isinstance(found, str) else {"json": found}))

    return RemoteModels("http://localhost", None, complete=True, transport=httpx2.MockTransport(answer))


@pytest.mark.parametrize("listed", [{}, {"data": 7}, {"data": "x"}, {"data": [{}]}, {"data": [{"id": "x"}]}])
async def test_a_strange_list_of_models_is_one_clear_error(listed: object) -> None:
    models = answering({"/v1/models": listed})
    with pytest.raises(UnavailableError, match="is not a server of this program"):
        await models.open("", lambda done, total: None)
    await models.close()


@pytest.mark.parametrize(
    "event",
    [
        '{"choices": 7}',
        '{"choices": [7]}',
        '{"choices": [{"text": 7}]}',
        '{"choices": [], "usage": "x"}',
        '{"prompt_progress": {"processed": 1}}',
        "{oops",
    ],
)
async def test_a_strange_answer_is_one_clear_error(event: str) -> None:
    listed = {"data": [{"id": "tiny", "max_model_len": 256}]}
    models = answering({"/v1/models": listed, "/v1/completions": f"data: {event}\n\n"})
    await models.open("", lambda done, total: None)
    with pytest.raises(UnavailableError, match="is not a server of this program"):
        async for _ in models.current.answer(Asked(text="x"), GREEDY):
            pass
    await models.close()


async def test_what_is_no_server_of_this_program_is_said() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        models = RemoteModels(f"http://127.0.0.1:{port}", None, complete=False)
        with pytest.raises(UnavailableError, match="is not a server of this program"):
            await models.open("", lambda done, total: None)
        await models.close()
