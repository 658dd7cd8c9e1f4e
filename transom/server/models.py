"""GET /v1/models: the served models, each with the context window that a request really gets."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.config.engine_config import kv_bytes_per_token
from transom.config.kv_size import conv_state_bytes
from transom.registry import ServedModel
from transom.server.answering import json_response
from transom.server.caller import caller_of
from transom.server.context import ServerContext

OWNER = "transom"


def models_router(context: ServerContext) -> APIRouter:
    """List and single entry, under both of their paths."""
    router = APIRouter()
    created = int(time.time())

    async def list_models(request: Request) -> Response:
        visible = context.registry.models(caller_of(request).may_use)
        return json_response({"object": "list", "data": [describe(served, created) for served in visible]})

    async def get_model(model_id: str, request: Request) -> Response:
        return json_response(describe(context.registry.get(model_id, caller_of(request).may_use), created))

    for prefix in ("/v1", ""):
        router.add_api_route(f"{prefix}/models", list_models, methods=["GET"], response_model=None)
        router.add_api_route(f"{prefix}/models/{{model_id:path}}", get_model, methods=["GET"], response_model=None)
    return router


def describe(served: ServedModel, created: int) -> dict[str, Any]:
    """One entry. Clients look for the window in different places, so all of them are filled."""
    window = served.engine_config.context_window
    return {
        "id": served.id,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "aliases": list(served.entry.aliases),
        **served.status_fields(),
        "max_model_len": window,
        "context_length": window,
        "attention_window": served.model_config.sliding_window,
        "meta": _meta(served),
    }


def _meta(served: ServedModel) -> dict[str, Any]:
    model, engine = served.model_config, served.engine_config
    report = served.engine.report
    return {
        "n_ctx": engine.context_window,
        "n_ctx_train": served.own_context_window,
        "n_vocab": model.vocab_size,
        "n_embd": model.hidden_size,
        "n_layers": model.num_hidden_layers,
        "architecture": model.model_type,
        "quantization": model.dtype,
        "has_chat_template": not served.llm.chat_template.is_default,
        "n_params": None if report is None else report.num_parameters,
        "size": None if report is None else report.weights_bytes,
        "kv_dtype": engine.kv_dtype,
        "kv_bytes_per_token": kv_bytes_per_token(model, engine.kv_dtype),
        "conv_state_bytes_per_sequence": conv_state_bytes(model),
        "kv_cache_ram_bytes": engine.kv_cache_ram_bytes,
        "max_ssd_bytes": engine.max_ssd_bytes,
        "hot_tokens": engine.hot_tokens,
        "cache_strategy": engine.cache.strategy.value,
        "max_draft_tokens": engine.max_draft_tokens,
        "max_request_tokens": None if report is None else served.max_request_tokens(engine.cache),
        "max_ram_bytes": engine.max_ram_bytes,
        "max_num_seqs": engine.max_num_seqs,
        "worker_pid": served.engine.process_id,
    }
