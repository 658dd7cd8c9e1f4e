"""A chat in a terminal, as somebody has it who sits there: keys, Ctrl-C, several lines, commands, another size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.pseudo_terminal import PseudoTerminal
from transom.cli.sources import bundled_registry

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}- {{ m.content }}\n- {% else %}{{ m.content }}\n{% endif %}"
    "{% endfor %}"
)
PROMPT = "\n>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model that chats."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(bundled_registry().parent / "tolstoy", home / "chatty")
    settings = home / "chatty" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": TEMPLATE}))
    return home


@pytest.fixture(scope="module")
def shared(home: Path) -> Iterator[PseudoTerminal]:
    """One start for all tests; the end of input leaves."""
    terminal = PseudoTerminal("run", f"{home}/chatty", "--temp", "0", "-t", "1", "-n", "12", home=home)
    try:
        terminal.wait_for(PROMPT)
        assert "chatty (chat), context window 8192 tokens" in terminal.text
        yield terminal
        terminal.ask("/clear", f"begins anew.{PROMPT}")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()


@pytest.fixture
def terminal(shared: PseudoTerminal) -> PseudoTerminal:
    shared.ask("/clear", f"begins anew.{PROMPT}")
    shared.ask("/set max_tokens 12", PROMPT)
    return shared


def saved(terminal: PseudoTerminal, path: Path) -> list[str]:
    """What was said, message by message."""
    terminal.ask(f"/save {path}", "Saved: ")  # a long path is broken where the line ends
    return [message["content"] for message in json.loads(path.read_text())["messages"]]


def test_questions_are_answered_and_figures_follow(terminal: PseudoTerminal, tmp_path: Path) -> None:
    shown = terminal.ask("Prince Andrew", "tokens/s")
    assert "12 tokens, " in shown
    terminal.ask("And then?", "tokens/s")
    messages = saved(terminal, tmp_path / "chat.json")
    assert messages[::2] == ["Prince Andrew", "And then?"]
    assert " ".join(messages[1].split()) in " ".join(shown.split())
    assert "messages      4" in terminal.ask("/context", "hot tier")


def test_ctrl_c_stops_an_answer_and_frees_what_it_held(terminal: PseudoTerminal, tmp_path: Path) -> None:
    terminal.ask("/set max_tokens 6000", PROMPT)
    terminal.ask("Prince Andrew", "and", 5)
    terminal.type("\x03")
    terminal.wait_for("what was said so far stays in the conversation")
    terminal.wait_for(PROMPT)
    assert "was stopped" in terminal.ask("/stats", "counted")
    for _ in range(20):  # the worker reports twice a second
        if "0 blocks of 64 tokens in use" in terminal.ask("/context", "alike"):
            break
    assert "0 blocks of 64 tokens in use" in terminal.text
    question, answer = saved(terminal, tmp_path / "chat.json")
    assert question == "Prince Andrew"
    assert answer.count("and") > 3
    assert terminal.process.poll() is None


def test_ctrl_c_clears_a_line_and_hints_at_an_empty_one(terminal: PseudoTerminal, tmp_path: Path) -> None:
    terminal.ask("Prince Andrew", "tokens/s")
    terminal.wait_for(PROMPT)
    terminal.forget()
    terminal.type("nobody reads this")
    terminal.wait_for("this")
    terminal.type("\x03")
    terminal.type("\x03")
    terminal.wait_for("Ctrl-D or /quit leaves.")
    assert saved(terminal, tmp_path / "chat.json")[::2] == ["Prince Andrew"]


def test_messages_of_several_lines_and_of_all_characters(terminal: PseudoTerminal, tmp_path: Path) -> None:
    for typed in (
        "one\x1b\rtwo\r",
        "one\\\rtwo\r",
        '"""one\rtwo"""\r',
        "\x1b[200~one\ntwo\x1b[201~\r",
        "Grüße 👩‍👩‍👧 流れ\r",
    ):
        terminal.forget()
        terminal.type(typed)
        terminal.wait_for("tokens/s")
    assert saved(terminal, tmp_path / "chat.json")[::2] == [*["one\ntwo"] * 4, "Grüße 👩‍👩‍👧 流れ"]


def test_the_tabulator_completes_a_command(terminal: PseudoTerminal) -> None:
    terminal.forget()
    terminal.type("/conte")
    terminal.wait_for("/context")
    terminal.type("\t")
    terminal.wait_for("/context", 2)
    terminal.type("\r")
    terminal.wait_for("conversation  0 of 8192 tokens")


def test_arrows_bring_back_what_was_typed_and_the_file_of_it_is_private(terminal: PseudoTerminal, home: Path) -> None:
    terminal.ask("/stats", PROMPT)
    terminal.forget()
    terminal.type("\x1b[A")
    terminal.wait_for("/stats")
    terminal.ask("", PROMPT)
    history = home / ".local" / "state" / "transom" / "history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert [json.loads(line) for line in history.read_text().splitlines()][-1] == "/stats"


def test_a_terminal_of_another_size_is_used_as_it_is(terminal: PseudoTerminal) -> None:
    terminal.resize(rows=12, columns=40)
    try:
        shown = terminal.ask("/help", "Ctrl-D")
        table = shown[shown.index("this") :]
        assert max(map(len, table.splitlines())) <= 40
        terminal.ask("Prince Andrew", "tokens/s")
    finally:
        terminal.resize(rows=30, columns=100)


def test_another_model_is_loaded_and_one_that_cannot_be_leaves_the_old_one(
    terminal: PseudoTerminal, home: Path
) -> None:
    terminal.ask("/model nobody", "is neither a directory, nor a GGUF file")
    (home / "damaged").mkdir(exist_ok=True)
    (home / "damaged" / "config.json").write_text("{}")
    terminal.ask(f"/model {home}/damaged", "config.json")
    terminal.ask("Prince Andrew", "tokens/s")
    terminal.ask("/model recall", "recall (chat), context window 32768 tokens")
    terminal.ask("What is it?", "of 32768 tokens")
    terminal.ask(f"/model {home}/chatty", "chatty (chat), context window")
