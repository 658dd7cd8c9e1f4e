"""Bad requests as data: values that no field takes, bodies that are none, and the route, status and field of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.server.served import VOCAB_SIZE

INT_TRAPS: list[Any] = ["3", True, 3.0, 1.5, [], {}, 2**31, 2**63, 2**64, -(2**63) - 1]
FLOAT_TRAPS: list[Any] = ["1", True, [], {}]
BOOL_TRAPS: list[Any] = [1, 0, "yes", "true", [], 1.0]
STR_TRAPS: list[Any] = [1, True, [], {}, 1.5]

COMMON: list[tuple[str, list[Any]]] = [
    ("temperature", [*FLOAT_TRAPS, -0.1, 2.1, -1, 3, 1e300]),
    ("top_p", [*FLOAT_TRAPS, -0.1, 1.01]),
    ("min_p", [*FLOAT_TRAPS, -0.1, 1.01]),
    ("top_k", [*INT_TRAPS, -2]),
    ("frequency_penalty", [*FLOAT_TRAPS, -2.1, 2.1]),
    ("presence_penalty", [*FLOAT_TRAPS, -2.1, 2.1]),
    ("repetition_penalty", [*FLOAT_TRAPS, 0, -1, 101]),
    ("repeat_penalty", [*FLOAT_TRAPS, 0, -1]),
    ("n", [*INT_TRAPS, 0, -1, 17]),
    ("max_tokens", [*INT_TRAPS, 0, -2, 100_001]),
    ("n_predict", [*INT_TRAPS, 0, -2, 100_001]),
    ("min_tokens", [*INT_TRAPS, -1, 100_001, 17]),
    ("seed", ["1", True, 1.5, [], 2**63, -(2**63) - 1, 2**64]),
    ("stop", [1, True, {}, "", [""], ["a"] * 5, [1], ["a", None], "x" * 257, ["é" * 129]]),
    ("stream", BOOL_TRAPS),
    ("ignore_eos", BOOL_TRAPS),
    ("include_stop_str_in_output", BOOL_TRAPS),
    ("skip_special_tokens", BOOL_TRAPS),
    ("return_token_ids", BOOL_TRAPS),
    ("timings_per_token", BOOL_TRAPS),
    ("stream_options", [1, [], "x", {}, {"include_usage": True}]),
    ("logit_bias", [[], 1, {"a": 1}, {"-1": 1}, {"01": 1}, {"+1": 1}, {"1.0": 1}, {" 1": 1}, {"١": 1}, {"1": 101}]),
    ("logit_bias", [{"1": -101}, {"1": "1"}, {"1": True}, {str(VOCAB_SIZE): 1}, {str(2**31): 1}, {"9" * 30: 1}]),
    ("logit_bias", [{str(index): 0 for index in range(1025)}]),
    ("stop_token_ids", [1, ["1"], [True], [1.0], [-1], [VOCAB_SIZE], [2**31], [2**64], list(range(129))]),
    ("allowed_token_ids", [1, [], ["1"], [-1], [VOCAB_SIZE], [2**31]]),
    ("priority", [1.5, "1", True, -1, 2**31]),
    ("user", [*STR_TRAPS, "x" * 129]),
    ("cache_salt", [*STR_TRAPS, "", "a/b", "a@b", "a\\b", "a\0b", "x" * 129]),
    ("sse_ping_interval", [*INT_TRAPS, -2, 3601]),
    ("speculative", [1, "x", [], {"n_max": -1}, {"n_max": "1"}, {"n_maximum": 1}, {"p_min": 2}]),
    ("prompt_logprobs", [*INT_TRAPS, -1, 21]),
    ("model", [1, True, [], {}, ""]),
]
COMPLETION: list[tuple[str, list[Any]]] = [
    ("prompt", [[], 1, True, {}, 1.5, ["a", 1], [1, "a"], [[1], "a"], [[]], [[1], []], [None], [True], [1.0], [[1.0]]]),
    ("prompt", [[-1], [VOCAB_SIZE], [VOCAB_SIZE + 1], [2**31], [2**64], [[97], [VOCAB_SIZE]], [[["a"]]], ""]),
    ("logprobs", [*INT_TRAPS, -1, 21]),
    ("best_of", [*INT_TRAPS, 0, 17]),
    ("echo", BOOL_TRAPS),
    ("add_special_tokens", BOOL_TRAPS),
]
CHAT: list[tuple[str, list[Any]]] = [
    ("logprobs", BOOL_TRAPS),
    ("top_logprobs", [*INT_TRAPS, -1, 21, 5]),
    ("max_completion_tokens", [*INT_TRAPS, 0, -2, 100_001]),
    ("reasoning_effort", [1, "extreme", ""]),
    ("service_tier", [1, "gold", {}]),
    ("prompt_cache_retention", [1, "48h", {}]),
    ("metadata", [1, [], {"a": 1}, {"k" * 65: "v"}, {"k": "v" * 513}, {str(index): "" for index in range(17)}]),
    ("chat_template_kwargs", [1, [], {"enable_thinking": []}, {"foreign": 1}, {"messages": "x"}]),
    ("add_generation_prompt", BOOL_TRAPS),
    ("continue_final_message", [*BOOL_TRAPS, True]),
]
MESSAGES: list[Any] = [
    [],
    1,
    "hi",
    {},
    [1],
    ["hi"],
    [{}],
    [{"role": "user"}],
    [{"content": "x"}],
    [{"role": "user", "content": None}],
    [{"role": "assistant", "content": None}],
    [{"role": "assistant", "content": None, "tool_calls": []}],
    [{"role": "wizard", "content": "x"}],
    [{"role": "USER", "content": "x"}],
    [{"role": 1, "content": "x"}],
    [{"role": "user", "content": 1}],
    [{"role": "user", "content": []}],
    [{"role": "user", "content": ["x"]}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": "text", "text": 1}]}],
    [{"role": "user", "content": [{"text": "x"}]}],
    [{"role": "user", "content": [{"type": "text", "text": "x", "size": 1}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
    [{"role": "user", "content": [{"type": "input_audio"}]}],
    [{"role": "user", "content": [{"type": "file"}]}],
    [{"role": "user", "content": "x", "unknown": 1}],
    [{"role": "tool", "content": "x"}],
    [{"role": "user", "content": "x", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}],
    [{"role": "assistant", "content": "x", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}],
    [{"role": "user", "content": "x"}] * 2049,
]
COMMON_UNSUPPORTED: list[tuple[str, Any]] = [
    ("guided_decoding_backend", "outlines"),
    ("prompt_embeds", "x"),
    ("prompt_logprobs", 0),
    ("truncate_prompt_tokens", -1),
    ("chat_template", "{{ 7*7 }}"),
    ("bad_words", ["x"]),
    ("use_beam_search", True),
    ("typical_p", 0.5),
    ("repeat_last_n", 64),
    ("n_keep", 5),
    ("n_discard", -1),
    ("id_slot", 0),
    ("xtc_probability", 0.5),
    ("dry_multiplier", 0.8),
    ("mirostat", 2),
    ("dynatemp_range", 0.5),
    ("n_probs", 3),
    ("t_max_predict_ms", 10),
]
COMPLETION_UNSUPPORTED: list[tuple[str, Any]] = [("suffix", "x"), ("tools", [{}])]
CHAT_UNSUPPORTED: list[tuple[str, Any]] = [
    ("functions", [{"name": "f"}]),
    ("function_call", {"name": "f"}),
    ("modalities", ["text", "audio"]),
    ("audio", {}),
    ("prediction", {"type": "content", "content": "x"}),
    ("web_search_options", {}),
    ("store", True),
    ("verbosity", "high"),
    ("echo", True),
    ("best_of", 2),
]


EMBEDDING: list[tuple[str, list[Any]]] = [
    ("input", ["", [], {}, 1, True, [""], ["a", ""], [[]], [[1], []], [1, "a"], [None], [-1], [2**31], [1.0], [True]]),
    ("dimensions", [*INT_TRAPS[:6], 0, -1, 2**63]),
    ("encoding_format", [*STR_TRAPS, "int8", "FLOAT"]),
    ("user", [1, "x" * 129]),
    ("priority", [-1, "1", 2**31]),
    ("truncate_prompt_tokens", [1, -1]),
]
RESPONSE: list[tuple[str, list[Any]]] = [
    ("input", [[], {}, 1, True, [1], ["a"], [None], [{"type": "item_reference", "id": "x"}], [{"role": "user"}]]),
    ("input", [[{"role": "tool", "content": "a"}], [{"role": "user", "content": [{"type": "input_image"}]}]]),
    ("instructions", [1, [], {}]),
    ("max_output_tokens", [*INT_TRAPS, 0, -2]),
    ("temperature", [*FLOAT_TRAPS, -1, 3]),
    ("top_p", [*FLOAT_TRAPS, 2]),
    ("top_logprobs", [*INT_TRAPS, -1, 21]),
    ("truncation", [1, "on", {}]),
    ("previous_response_id", ["resp_1", 1, []]),
    ("conversation", ["conv_1", {"id": "conv_1"}]),
    ("background", [True, 1]),
    ("include", [1, "x", ["x"], [1]]),
    ("text", [1, [], {"format": 1}, {"format": {"type": "xml"}}, {"verbosity": "low"}, {"unknown": 1}]),
    ("reasoning", [1, {"effort": "most"}, {"summary": "detailed"}, {"unknown": 1}]),
    ("stream", BOOL_TRAPS),
    ("store", BOOL_TRAPS),
    ("tool_choice", ["required", {"type": "function", "name": "f"}]),
]
TOKENIZE: list[tuple[str, list[Any]]] = [
    ("prompt", [1, [], {}, True]),
    ("parse_special", BOOL_TRAPS),
    ("add_special_tokens", BOOL_TRAPS),
    ("with_pieces", BOOL_TRAPS),
]
DETOKENIZE: list[tuple[str, list[Any]]] = [("tokens", [1, "a", {}, [-1], ["1"], [1.0], [True], [2**31], [[1]]])]

NO_BODIES: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"1",
    b'"x"',
    b"{",
    b"{}}",
    b"{'a': 1}",
    b'{"prompt": "a", "prompt": "b"}',
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": "a", "temperature": Infinity}',
    b'{"prompt": "a", "temperature": 1e400}',
    b'{"prompt": "a", "temperature": -1e400}',
    b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "\xff"}',
    b'\xef\xbb\xbf{"prompt": "a"}',
    '{"prompt": "a"}'.encode("utf-16"),
    '{"prompt": "a"}'.encode("utf-32"),
    b"[" * 100_000,
    b'{"prompt": ' + b"[" * 65 + b"]" * 65 + b"}",
]


@dataclass(frozen=True)
class BadRequest:
    """One request that must be refused."""

    path: str
    body: bytes
    param: str | None = None
    """How the answer's `param` begins; None: whatever it is."""
    status: int = 400
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


ROUTES: dict[str, tuple[dict[str, Any], list[tuple[str, list[Any]]]]] = {
    "/v1/completions": ({"prompt": "abc"}, [*COMMON, *COMPLETION]),
    "/v1/chat/completions": ({"messages": [{"role": "user", "content": "Hello"}]}, [*COMMON, *CHAT]),
    "/v1/embeddings": ({"input": "abc"}, EMBEDDING),
    "/v1/responses": ({"input": "Hello"}, RESPONSE),
    "/tokenize": ({"prompt": "abc"}, TOKENIZE),
    "/detokenize": ({"tokens": [1]}, DETOKENIZE),
}
"""For each route a good body, and the bad values of its fields."""
_GOOD_ELSEWHERE = (
    ("/v1/chat/completions", "min_tokens", 17),  # fits a chat's default limit
    ("/v1/completions", "prompt", ""),  # is a BOS token where the model has one
)


def bad_requests(model: str, vocab_size: int) -> Iterator[BadRequest]:
    """All of them, for a model of this name and size of vocabulary."""
    for path, (good, table) in ROUTES.items():
        good = {"model": model, **good}
        for name, values in table:
            for value in values:
                if (path, name, value) not in _GOOD_ELSEWHERE:
                    yield _with(path, good, name, _in_vocabulary(value, vocab_size))
        yield _with(path, good, "no_such_field", 1)
        yield BadRequest(path, json.dumps({**good, "model": "nobody"}).encode(), "model", 404)
        yield BadRequest(path, json.dumps(good).encode(), status=415, headers={"content-type": "text/plain"})
        yield from (BadRequest(path, body) for body in NO_BODIES)
    chat = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    yield from (_with("/v1/chat/completions", chat, "messages", messages) for messages in MESSAGES)
    for name, value in [*COMMON_UNSUPPORTED, *CHAT_UNSUPPORTED]:
        yield _with("/v1/chat/completions", chat, name, value)
    for name, value in [*COMMON_UNSUPPORTED, *COMPLETION_UNSUPPORTED]:
        yield _with("/v1/completions", {"model": model, "prompt": "x"}, name, value)


def _with(path: str, good: dict[str, Any], name: str, value: Any) -> BadRequest:
    return BadRequest(path, json.dumps({**good, name: value}).encode(), name)


def _in_vocabulary(value: Any, vocab_size: int) -> Any:
    """The table's first ids outside of the vocabulary are those of the tests' own model."""
    text = json.dumps(value)
    for beyond in (0, 1):
        text = text.replace(str(VOCAB_SIZE + beyond), str(vocab_size + beyond))
    return json.loads(text)
