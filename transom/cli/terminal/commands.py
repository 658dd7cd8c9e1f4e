"""What begins with a slash: the table of commands, and how their lines are completed.

Each works on the `Conversation` it is given; what goes wrong is raised, and said there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transom.cli.answers import CacheUse
from transom.cli.banner import size_text
from transom.cli.terminal.saved_chat import load_chat, save_chat
from transom.cli.terminal.settings import NUMBERS, STRATEGIES, shown, with_number, with_strategy
from transom.errors import ConfigError

if TYPE_CHECKING:
    from transom.cli.terminal.conversation import Conversation

_BEGINNING = 60
_BAR_WIDTH = 40
_MAX_COMPLETED_FILES = 50

Complete = Callable[["Conversation", str], Iterable[str]]


def _nothing(_: Conversation, __: str) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Command:
    """One of them."""

    names: tuple[str, ...]
    """The first is shown."""
    arguments: str
    help: str
    run: Callable[[Conversation, str], Awaitable[None]]
    complete: Complete = _nothing
    """What may follow the name."""


async def run_command(conversation: Conversation, line: str) -> None:
    """Carries out `line`: a slash, as much of a name as is clear, arguments. Raises `TransomError`, OSError."""
    name, _, argument = line.partition(" ")
    exact = [command for command in COMMANDS if name in command.names]
    meant = exact or [command for command in COMMANDS if command.names[0].startswith(name)]
    if not meant:
        raise ConfigError(f"{name[:32]} is no command; /help shows them")
    if len(meant) > 1:
        raise ConfigError(f"{name} may be {' or '.join(command.names[0] for command in meant)}")
    await meant[0].run(conversation, argument.strip())


def complete_command(conversation: Conversation, typed: str) -> list[str]:
    """Whole lines that `typed` may become."""
    if not typed.startswith("/"):
        return []
    name, space, argument = typed.partition(" ")
    if not space:
        return [command.names[0] for command in COMMANDS if command.names[0].startswith(name)]
    return [
        f"{name} {follows}"
        for command in COMMANDS
        if name in command.names
        for follows in command.complete(conversation, argument)
        if follows.startswith(argument)
    ]


async def _help(conversation: Conversation, _: str) -> None:
    rows = {f"{command.names[0]} {command.arguments}".strip(): command.help for command in COMMANDS}
    keys = {
        "Enter": "sends; behind a backslash it begins a new line, and so does Alt-Enter",
        '"""': "begins a message of several lines, which three more end",
        "Ctrl-C": "stops an answer",
        "Ctrl-D": "leaves",
    }
    conversation.screen.pairs({**rows, **keys})


async def _model(conversation: Conversation, name: str) -> None:
    if name:
        await conversation.switch(name)
        return
    conversation.screen.say(conversation.model.description)
    conversation.screen.note(f"Others: {', '.join(conversation.models.names())}")


async def _context(conversation: Conversation, _: str) -> None:
    model = conversation.model
    said = conversation.chat.said(is_chat=model.is_chat)
    num_tokens = 0 if said is None else await model.count(said)
    share = num_tokens / model.context_window
    filled = min(_BAR_WIDTH, round(share * _BAR_WIDTH))
    rows = {
        "conversation": f"{num_tokens} of {model.context_window} tokens, {share:.1%}",
        "": f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}]",
        "messages": str(len(conversation.chat.messages)),
        "strategy": await model.strategy(conversation.settings),
    }
    conversation.screen.pairs({**rows, **_tier_rows(await model.cache_use())})


def _tier_rows(use: CacheUse | None) -> dict[str, str]:
    if use is None:
        return {}
    return {
        f"{tier.name} tier": f"{tier.num_used_blocks} blocks of {use.block_size} tokens in use, "
        f"{tier.num_kept_blocks} kept for what begins alike; "
        f"{size_text(tier.num_bytes)} of {size_text(tier.num_bytes_total)}"
        for tier in use.tiers
    }


async def _strategy(conversation: Conversation, argument: str) -> None:
    settings = conversation.settings
    if argument:
        settings = with_strategy(settings, argument.split())
    text = await conversation.model.strategy(settings)
    conversation.settings = settings
    conversation.screen.say(f"strategy: {text}")


async def _stats(conversation: Conversation, _: str) -> None:
    if conversation.last is None:
        conversation.screen.say("Nothing was answered so far.")
    else:
        conversation.screen.pairs(conversation.last.rows())


async def _set(conversation: Conversation, argument: str) -> None:
    name, _, value = argument.partition(" ")
    value = value.strip()
    if name == "system" and value:
        if not conversation.model.is_chat:
            raise ConfigError("a system message needs a model with a chat template")
        conversation.chat.system = None if value in ("none", "off", "default") else value
    elif name and value:
        conversation.settings = with_number(conversation.settings, name, value)
    elif name:
        raise ConfigError(f"/set {name} needs a value")
    rows = shown(conversation.settings, conversation.chat.system)
    conversation.screen.pairs({name: rows[name]} if name else rows)


async def _clear(conversation: Conversation, _: str) -> None:
    conversation.chat.clear()
    conversation.refused = None
    conversation.screen.say("The conversation begins anew.")


async def _undo(conversation: Conversation, _: str) -> None:
    question = _take_back(conversation)
    conversation.screen.say("There is nothing to take back." if question is None else f"Taken back: {_begun(question)}")


async def _retry(conversation: Conversation, _: str) -> None:
    question = conversation.refused or _take_back(conversation)
    if question is None:
        conversation.screen.say("Nothing was asked so far.")
    else:
        await conversation.ask(question)


def _take_back(conversation: Conversation) -> str | None:
    if conversation.refused is not None:
        question, conversation.refused = conversation.refused, None
        return question
    return conversation.chat.undo()


async def _more(conversation: Conversation, _: str) -> None:
    await conversation.go_on()


async def _truncate(conversation: Conversation, _: str) -> None:
    chat, model, question = conversation.chat, conversation.model, conversation.refused
    if not model.is_chat or not chat.messages:
        conversation.screen.say("There are no messages that could be left out.")
        return
    messages = chat.with_system(chat.messages)
    if question is not None:
        messages = chat.asking(question, is_chat=True).messages
    left_out = await model.fit(messages, conversation.settings)
    if left_out.indices:
        rest = f"{left_out.num_left_tokens} of {model.context_window} are left"
        conversation.screen.say(f"Left out, with {left_out.num_tokens} tokens; {rest}:")
        for index in left_out.indices:
            conversation.screen.say(f"  {index + 1}. {messages[index]['role']}: {_begun(messages[index]['content'])}")
        chat.leave_out(left_out.indices)
    else:
        conversation.screen.say(f"Nothing is left out; {left_out.num_left_tokens} of {model.context_window} tokens.")
    if question is not None:
        await conversation.ask(question)


async def _save(conversation: Conversation, argument: str) -> None:
    path = _path(argument, "/save")
    save_chat(path, conversation.chat, conversation.model.id)
    conversation.screen.say(f"Saved: {path}")


async def _load(conversation: Conversation, argument: str) -> None:
    path = _path(argument, "/load")
    chat = load_chat(path)
    if (chat.text if conversation.model.is_chat else chat.messages) or (chat.system and not conversation.model.is_chat):
        kind = "messages" if conversation.model.is_chat else "a text"
        raise ConfigError(f"{path}: this model needs {kind}")
    conversation.chat, conversation.refused = chat, None
    conversation.screen.say(f"Loaded: {len(chat.messages)} messages")


async def _quit(conversation: Conversation, _: str) -> None:
    conversation.is_over = True


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise ConfigError(f"{command} needs the name of a file")
    try:
        return Path(argument).expanduser()
    except RuntimeError:
        raise ConfigError(f"{argument} has the ~ of nobody who has a home directory") from None


def _begun(text: str) -> str:
    """The beginning of a message, in a line."""
    line = " ".join(text.split())
    return line if len(line) <= _BEGINNING else f"{line[:_BEGINNING]}..."


def _model_names(conversation: Conversation, _: str) -> Iterable[str]:
    return conversation.models.names()


def _strategy_names(_: Conversation, __: str) -> Iterable[str]:
    return (*STRATEGIES, "default")


def _setting_names(_: Conversation, __: str) -> Iterable[str]:
    return (*NUMBERS, "system")


def _files(_conversation: Conversation, typed: str) -> Iterable[str]:
    """Below the directory that was typed so far; nothing where it cannot be read."""
    place = typed[: typed.rfind("/") + 1]
    try:
        found = sorted(Path(place or ".").expanduser().iterdir())
    except (OSError, RuntimeError):
        return []
    names = [f"{place}{path.name}{'/' if path.is_dir() else ''}" for path in found]
    return [name for name in names if name.startswith(typed)][:_MAX_COMPLETED_FILES]


COMMANDS = (
    Command(("/help", "/?"), "", "this", _help),
    Command(("/model",), "[NAME]", "which model answers; another one takes over", _model, _model_names),
    Command(("/context",), "", "what the conversation takes of the context window, and its keys and values", _context),
    Command(("/strategy",), "[NAME [WINDOW [FIRST]]]", "what attention may forget here", _strategy, _strategy_names),
    Command(("/stats",), "", "figures of the last answer", _stats),
    Command(("/set",), "[NAME VALUE]", "max_tokens, temperature, seed, system and others", _set, _setting_names),
    Command(("/more",), "", "the last answer goes on", _more),
    Command(("/retry",), "", "the last question again", _retry),
    Command(("/undo",), "", "takes back the last question and its answer", _undo),
    Command(("/truncate",), "", "leaves out the oldest messages, so that there is room", _truncate),
    Command(("/clear",), "", "begins anew", _clear),
    Command(("/save",), "FILE", "the conversation into a file", _save, _files),
    Command(("/load",), "FILE", "a conversation from a file", _load, _files),
    Command(("/quit", "/bye", "/exit"), "", "leaves", _quit),
)
"""In the order of /help."""
