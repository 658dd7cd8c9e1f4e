"""A conversation in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.terminal.test_chat import talked
from transom.cli.terminal.chat import Chat
from transom.cli.terminal.saved_chat import load_chat, save_chat
from transom.errors import ConfigError


def test_what_was_saved_is_loaded_and_is_the_body_of_a_request(tmp_path: Path) -> None:
    path, chat = tmp_path / "chat.json", talked()
    chat.take(chat.asking("Grüße\n🎉", is_chat=True), "…")
    save_chat(path, chat, "tiny")
    body = json.loads(path.read_text())
    assert (body["model"], body["messages"][0]["role"], len(body["messages"])) == ("tiny", "system", 7)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = load_chat(path)
    assert (loaded.system, loaded.messages) == (chat.system, chat.messages)
    assert [each.name for each in tmp_path.iterdir()] == ["chat.json"]


def test_a_text_is_saved_as_a_prompt(tmp_path: Path) -> None:
    chat = Chat()
    chat.text = "Once upon"
    save_chat(tmp_path / "x", chat, "tiny")
    assert json.loads((tmp_path / "x").read_text()) == {"model": "tiny", "prompt": "Once upon"}
    assert load_chat(tmp_path / "x").text == "Once upon"


def test_a_saved_conversation_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    save_chat(path, talked(), "tiny")
    save_chat(path, Chat(), "tiny")
    assert load_chat(path).is_empty
    path.write_text("my thesis")
    with pytest.raises(ConfigError, match="exists and is no saved conversation; it is left alone"):
        save_chat(path, talked(), "tiny")
    assert path.read_text() == "my thesis"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[]", "JSON object"),
        ("{}", "no 'messages' and no 'prompt'"),
        ('{"messages": 1}', "no 'messages' and no 'prompt'"),
        ('{"prompt": 1}', "every message is a text"),
        ('{"messages": [1]}', r"messages\[0\] needs a role"),
        ('{"messages": [{"role": "tool", "content": ""}]}', r"messages\[0\] needs a role"),
        ('{"messages": [{"role": "user"}]}', "every message is a text"),
        ('{"messages": [{"role": "user", "content": ""}, {"role": "system", "content": ""}]}', "only be the first"),
    ],
)
def test_a_file_that_holds_no_conversation_is_one_clear_error(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        load_chat(tmp_path / "x")
