"""What well-known programs send when nobody has set them up: all of it is accepted, and what has a meaning has it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.asgi import ask, chat
from tests.server.served import RecitingEngine, make_app, served_model
from tests.tokenizer.family_templates import TEMPLATES
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.settings import ServerSettings

USER = {"role": "user", "content": "Hi"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Of a city.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
STRICT_TOOL = {"type": "function", "function": {**FUNCTION, "strict": False}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Bonn"}'}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "12 degrees"}
USAGE = {"include_usage": True}
LLAMA_CPP_SAMPLING = {
    "temperature": 0.8,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 1,
    "xtc_probability": 0,
    "xtc_threshold": 0.1,
    "repeat_last_n": 64,
    "repeat_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
}
OPTIONAL = """
    audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
    metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed
    service_tier stop store stream_options temperature tool_choice tools top_logprobs top_p user verbosity
    web_search_options
"""
NULLS = dict.fromkeys(OPTIONAL.split())
SENT_BACK = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "reasoning_content": None,
    "tool_calls": [{**CALL, "index": 0}],
}

CHATS: dict[str, dict[str, Any]] = {
    "open-webui": {"stream": True, "messages": [{"role": "system", "content": "Be brief."}, USER], "user": "6f1c-ab"},
    "open-webui, counting tokens": {"stream": True, "stream_options": USAGE, "messages": [USER]},
    "open-webui, a title": {"stream": False, "messages": [USER], "max_completion_tokens": 100},
    "open-webui, after a call": {"stream": True, "messages": [USER, SENT_BACK, RESULT], "tools": [TOOL]},
    "continue.dev": {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 100,
        "temperature": 0.5,
        "stream": True,
        "stream_options": USAGE,
        "tools": [TOOL],
        "parallel_tool_calls": False,
    },
    "aider": {"messages": [{"role": "system", "content": "Edit."}, USER], "temperature": 0, "stream": True},
    "cline": {
        "messages": [
            {"role": "system", "content": "You edit files."},
            {"role": "user", "content": [{"type": "text", "text": "<task>"}, {"type": "text", "text": "<files>"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "<read_file>"}]},
            {"role": "user", "content": [{"type": "text", "text": "no", "cache_control": {"type": "ephemeral"}}]},
        ],
        "temperature": 0,
        "stream": True,
        "stream_options": USAGE,
        "reasoning_effort": "medium",
        "tool_choice": None,
    },
    "litellm": {
        "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL], "function_call": None}, RESULT],
        "tools": [TOOL],
        "metadata": {"trace": "1"},
        "stream": True,
        "stream_options": USAGE,
    },
    "langchain": {
        "messages": [
            {"role": "user", "content": "Hi", "name": "me"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": [{"type": "text", "text": "12 degrees"}], "tool_call_id": "call_1"},
        ],
        "n": 1,
        "stream": True,
        "stream_options": USAGE,
        "temperature": 0.7,
        "max_completion_tokens": 100,
        "tools": [STRICT_TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    },
    "OpenAI's agents": {
        "messages": [{"role": "developer", "content": "Help."}, USER],
        "tools": [STRICT_TOOL],
        "stream": False,
        "store": False,
        "reasoning_effort": "low",
        "prompt_cache_key": "a",
        "safety_identifier": "b",
        "verbosity": "medium",
        "service_tier": "flex",
        "prompt_cache_retention": "24h",
        "metadata": {"a": "b"},
    },
    "an answer sent back as the client holds it": {"messages": [USER, SENT_BACK, RESULT], "tools": [TOOL]},
    "vLLM's name of the reasoning": {
        "messages": [USER, {"role": "assistant", "content": "a", "reasoning": "hm"}, USER]
    },
    "llama.cpp's own page": {
        "messages": [USER],
        "stream": True,
        "reasoning_format": "auto",
        "max_tokens": -1,
        "cache_prompt": True,
        "return_progress": True,
        "timings_per_token": True,
        **LLAMA_CPP_SAMPLING,
    },
    "SillyTavern": {
        "messages": [USER],
        "temperature": 1,
        "max_tokens": 100,
        "stream": True,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_p": 1,
        "stop": [],
        "logit_bias": {},
    },
    "every optional field as null": {"messages": [USER], **NULLS},
}
COMPLETIONS: dict[str, dict[str, Any]] = {
    "continue.dev": {"prompt": "a", "max_tokens": 100, "temperature": 0.01, "stream": True, "stop": ["\n\n", "```"]},
    "langchain": {"prompt": ["a"], "max_tokens": 100, "temperature": 0.7, "n": 1, "top_p": 1, "logit_bias": {}},
    "llama.cpp's clients": {
        "prompt": "a",
        "n_predict": 100,
        "n_keep": 0,
        "id_slot": -1,
        "cache_prompt": True,
        "stream": True,
        "mirostat": 0,
        "mirostat_tau": 5,
        "mirostat_eta": 0.1,
        "n_probs": 0,
        "min_keep": 0,
        "speculative": {"n_max": 16, "n_min": 0, "p_min": 0.75},
        **LLAMA_CPP_SAMPLING,
    },
    "every optional field as null": {
        "prompt": "a",
        **dict.fromkeys(["best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n"]),
        **dict.fromkeys(
            ["presence_penalty", "seed", "stop", "stream_options", "suffix", "temperature", "top_p", "user"]
        ),
    },
}
RESPONSES: dict[str, dict[str, Any]] = {
    "codex": {
        "instructions": "Edit.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
        ],
        "tools": [{"type": "function", **FUNCTION, "strict": False}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "a",
        "client_metadata": {"installation": "x"},
    },
    "OpenAI's agents": {
        "input": [USER],
        "include": [],
        "tools": [],
        "store": None,
        "previous_response_id": None,
        "conversation": None,
        "prompt": None,
        "truncation": None,
        "metadata": None,
        "max_output_tokens": 50,
    },
    "vercel": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], "stream": True},
}


async def post(path: str, body: dict[str, Any]) -> Any:
    served = served_model(RecitingEngine(end_after=40), template=TEMPLATES["qwen2, qwen3"], window=4096)
    try:
        return await ask(create_app(ModelRegistry([served]), ServerSettings()), "POST", path, {"model": "tiny", **body})
    finally:
        served.llm.close()


@pytest.mark.parametrize("name", CHATS)
async def test_a_chat_is_answered(name: str) -> None:
    answer = await post("/v1/chat/completions", CHATS[name])
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("name", COMPLETIONS)
async def test_a_completion_is_answered(name: str) -> None:
    answer = await post("/v1/completions", COMPLETIONS[name])
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("name", RESPONSES)
async def test_a_response_is_answered(name: str) -> None:
    answer = await post("/v1/responses", RESPONSES[name])
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("tier", ["auto", "default", "flex", "scale", "priority", "fast"])
async def test_the_answer_names_the_tier_of_service_that_there_is(tier: str) -> None:
    assert (await chat(make_app(), service_tier=tier)).json()["service_tier"] == "default"


async def test_a_window_of_penalties_is_refused_where_there_are_some() -> None:
    for fields in ({"repeat_penalty": 1.1}, {"repeat_penalty": 1, "presence_penalty": 0.5}, {}):
        answer = await chat(make_app(), repeat_last_n=64, **fields)
        assert (answer.status, answer.error["param"]) == (400, "repeat_last_n")
