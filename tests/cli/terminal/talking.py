"""A conversation whose lines are given in advance, with a model that recites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.server.served import RecitingEngine, served_model
from transom.cli.answers import AnswerSettings, ChatModel, OnProgress
from transom.cli.responder import Responder
from transom.cli.terminal.chat import Chat
from transom.cli.terminal.conversation import Conversation
from transom.cli.terminal.line_reader import NoLine
from transom.cli.terminal.screen import Screen
from transom.errors import ConfigError

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class GivenLines:
    """Reads what it was given, then the end of input."""

    def __init__(self, lines: Iterable[str | NoLine]) -> None:
        self._lines = iter(lines)

    async def read(self) -> str | NoLine:
        return next(self._lines, NoLine.END)


class GivenModels:
    """Models that are there already."""

    def __init__(self, *models: ChatModel) -> None:
        self._models = {model.id: model for model in models}
        self._current = models[0]

    @property
    def current(self) -> ChatModel:
        return self._current

    def names(self) -> list[str]:
        return list(self._models)

    async def open(self, name: str, on_progress: OnProgress) -> None:
        if name not in self._models:
            raise ConfigError(f"{name!r} is nowhere")
        self._current = self._models[name]

    async def close(self) -> None:
        pass


def chat_model(engine: RecitingEngine, *, model_id: str = "tiny", window: int = 256) -> Iterator[Responder]:
    """A model with a chat template; the helper process ends with the generator."""
    served = served_model(engine, template=TEMPLATE, model_id=model_id, window=window)
    yield Responder(served)
    served.llm.close()


async def talk(model: ChatModel, *lines: str | NoLine, settings: AnswerSettings | None = None) -> Conversation:
    """The conversation when all lines are read."""
    conversation = Conversation(
        GivenModels(model),
        GivenLines(lines),
        Screen(),
        Chat(),
        settings or AnswerSettings(max_tokens=16, temperature=0),
    )
    await conversation.run()
    return conversation
