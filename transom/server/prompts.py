"""Prompts as OpenAI writes them, texts or token ids, one or many: checked, packed, encoded."""

from __future__ import annotations

from typing import Any

from transom.errors import RequestError
from transom.registry import ServedModel
from transom.request import TokenIds

MAX_PROMPTS = 2048
_INT32_MAX = 2**31 - 1


def check_prompts(prompt: Any, param: str) -> None:
    """Raises `RequestError` for everything but a text, texts, token ids, or lists of token ids, none of them empty."""
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, list) or not prompt:
        raise RequestError(f"'{param}' must be a text, texts, token ids or lists of them, and not empty.", param=param)
    items = _prompt_list(prompt)
    if len(items) > MAX_PROMPTS:
        raise RequestError(f"'{param}' has {len(items)} entries; {MAX_PROMPTS} are allowed.", param=param)
    texts = [isinstance(item, str) for item in items]
    if all(texts):
        return
    if any(texts) or not all(_is_token_list(item) for item in items):
        raise RequestError(f"'{param}' must hold texts only, or token ids (integers from 0) only.", param=param)


def pack_prompts(prompt: Any) -> tuple[str | TokenIds, ...]:
    """Checked prompts as a tuple. As a list of numbers a large one takes ten times as much."""
    return tuple(item if isinstance(item, str) else TokenIds(item) for item in _prompt_list(prompt))


def encode_prompt(served: ServedModel, prompt: str | TokenIds, param: str, *, add_special_tokens: bool) -> TokenIds:
    """Token ids, at least one. Raises `RequestError`. Blocks for as long as the text is long."""
    if not isinstance(prompt, str):
        served.llm.check_token_ids(prompt, param)
        return prompt
    ids = served.llm.encode(prompt, add_special_tokens=add_special_tokens)
    if not ids:
        raise RequestError(f"'{param}' is empty, and this model has no token to begin with.", param=param)
    return TokenIds(ids)


def _prompt_list(prompt: Any) -> list[Any]:
    if isinstance(prompt, str) or (prompt and not isinstance(prompt[0], str | list)):
        return [prompt]
    return list(prompt)


def _is_token_list(item: Any) -> bool:
    return (
        isinstance(item, list) and bool(item) and all(type(token) is int and 0 <= token <= _INT32_MAX for token in item)
    )
