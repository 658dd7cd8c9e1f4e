"""POST /tokenize, /detokenize, /apply-template: text and tokens without running the model.

llama.cpp's and vLLM's bodies are both taken; answers carry the words of both where these do not clash.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.registry import ServedModel
from transom.server.answering import json_response
from transom.server.chat import encode_chat, render_chat
from transom.server.context import ServerContext
from transom.server.json_body import read_json_object
from transom.server.protocol import ChatPromptBody, DetokenizeBody, TextBody


def tokenize_router(context: ServerContext) -> APIRouter:
    """The three routes."""
    router = APIRouter()

    async def tokenize(request: Request) -> Response:
        raw = await read_json_object(request, context.large_bodies)
        served = context.named_model(raw, request)
        if "messages" in raw:
            chat = ChatPromptBody.parse(raw)
            return json_response(_tokens(served, await encode_chat(served, chat), chat))
        text = TextBody.parse(raw)
        return json_response(_tokens(served, await _encode(served, text), text))

    async def detokenize(request: Request) -> Response:
        raw = await read_json_object(request, context.large_bodies)
        body = DetokenizeBody.parse(raw)
        served = context.named_model(raw, request)
        served.llm.check_token_ids(body.tokens, "tokens")
        text = await asyncio.to_thread(served.llm.decode, body.tokens, skip_special_tokens=False)
        return json_response({"content": text, "prompt": text})

    async def apply_template(request: Request) -> Response:
        raw = await read_json_object(request, context.large_bodies)
        body = ChatPromptBody.parse(raw)
        return json_response({"prompt": await render_chat(context.named_model(raw, request), body)})

    for path, endpoint in {"/tokenize": tokenize, "/detokenize": detokenize, "/apply-template": apply_template}.items():
        for prefix in ("", "/v1"):
            router.add_api_route(f"{prefix}{path}", endpoint, methods=["POST"], response_model=None)
    return router


async def _encode(served: ServedModel, body: TextBody) -> list[int]:
    text = body.prompt if body.content is None else body.content
    add_special_tokens = body.add_special_tokens if body.content is None else body.add_special
    return await asyncio.to_thread(
        served.llm.encode, text or "", add_special_tokens=add_special_tokens, parse_special_tokens=body.parse_special
    )


def _tokens(served: ServedModel, ids: list[int] | tuple[int, ...], body: TextBody | ChatPromptBody) -> dict[str, Any]:
    tokens = [_piece(served, token_id) for token_id in ids] if body.with_pieces else list(ids)
    fields: dict[str, Any] = {"tokens": tokens, "count": len(ids), "max_model_len": served.engine_config.context_window}
    if body.return_token_strs:
        fields["token_strs"] = [served.llm.tokenizer.id_to_token(token_id) or "" for token_id in ids]
    return fields


def _piece(served: ServedModel, token_id: int) -> dict[str, Any]:
    """A token with its text, or with its bytes where these are no whole characters."""
    token_bytes = served.llm.tokenizer.token_bytes(token_id)
    try:
        return {"id": token_id, "piece": token_bytes.decode("utf-8")}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": list(token_bytes)}
