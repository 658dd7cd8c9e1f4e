"""/tokenize, /detokenize, /apply-template: llama.cpp's bodies and vLLM's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.asgi import ask
from tests.server.served import VOCAB_SIZE, make_app

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
@pytest.mark.parametrize("body", [{"content": "aé"}, {"prompt": "aé"}, {"model": "tiny", "prompt": "aé"}])
async def test_a_text_becomes_tokens_in_the_words_of_both(path: str, body: dict[str, Any]) -> None:
    answer = (await ask(make_app(), "POST", path, body)).json()
    assert answer == {"tokens": [97, 0xC3, 0xA9], "count": 3, "max_model_len": 256}


async def test_pieces_and_token_strings_come_on_request() -> None:
    answer = (await ask(make_app(), "POST", "/tokenize", {"content": "aé", "with_pieces": True})).json()
    assert answer["tokens"] == [{"id": 97, "piece": "a"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA9, "piece": [0xA9]}]
    answer = (await ask(make_app(), "POST", "/tokenize", {"prompt": "ab", "return_token_strs": True})).json()
    assert answer["token_strs"] == ["a", "b"]


async def test_a_chat_is_counted_as_the_chat_route_counts_it() -> None:
    app = make_app()
    counted = (await ask(app, "POST", "/tokenize", {"model": "tiny", "messages": HELLO})).json()
    answered = (await ask(app, "POST", "/v1/chat/completions", {"model": "tiny", "messages": HELLO})).json()
    assert counted["count"] == answered["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize(("spelled", "tokens"), [(False, 4), (True, 1)])
async def test_special_tokens_are_parsed_only_on_request(spelled: bool, tokens: int) -> None:
    answer = await ask(make_app(), "POST", "/tokenize", {"content": "</s>", "parse_special": spelled})
    assert answer.json()["count"] == tokens


async def test_tokens_become_text_again_in_the_words_of_both() -> None:
    answer = await ask(make_app(), "POST", "/detokenize", {"tokens": [97, 0xC3, 0xA9, 256]})
    assert answer.json() == {"content": "aé</s>", "prompt": "aé</s>"}


async def test_a_template_is_applied() -> None:
    answer = await ask(make_app(), "POST", "/apply-template", {"messages": HELLO})
    assert answer.json() == {"prompt": "Hello"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"content": "a", "prompt": "b"}, "prompt"),
        ("/tokenize", {"content": 1}, "content"),
        ("/tokenize", {"content": "a", "foo": 1}, "foo"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": HELLO, "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": HELLO, "tools": [{}]}, "tools"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [VOCAB_SIZE]}, "tokens"),
        ("/detokenize", {"tokens": [2**31]}, "tokens"),
        ("/detokenize", {"tokens": [1.0]}, "tokens"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": HELLO, "chat_template": "x"}, "chat_template"),
        ("/apply-template", {"messages": HELLO, "model": 1}, "model"),
    ],
)
async def test_bad_bodies_are_refused(path: str, body: dict[str, Any], param: str) -> None:
    answer = await ask(make_app(), "POST", path, body)
    assert answer.status == 400
    assert answer.error["param"].startswith(param)
