"""GET /props and /slots: what clients of llama.cpp ask before they begin. `?model=` names one of several."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.registry import ServedModel
from transom.server.answering import json_response
from transom.server.caller import Caller, caller_of
from transom.server.choices import SYSTEM_FINGERPRINT
from transom.server.context import ServerContext


def props_router(context: ServerContext) -> APIRouter:
    """Both routes."""
    router = APIRouter()

    async def get_props(request: Request) -> Response:
        return json_response(_props(_asked_for(context, request)))

    async def get_slots(request: Request) -> Response:
        served = _asked_for(context, request)
        return json_response(_slots(served, _num_running(context, served, caller_of(request))))

    for prefix in ("", "/v1"):
        router.add_api_route(f"{prefix}/props", get_props, methods=["GET"], response_model=None)
        router.add_api_route(f"{prefix}/slots", get_slots, methods=["GET"], response_model=None)
    return router


def _asked_for(context: ServerContext, request: Request) -> ServedModel:
    return context.named_model({"model": request.query_params.get("model")}, request)


def _props(served: ServedModel) -> dict[str, Any]:
    defaults, tokenizer = served.generation_defaults, served.llm.tokenizer
    return {
        "default_generation_settings": {
            "n_ctx": served.engine_config.context_window,
            "params": {
                "temperature": 1.0 if defaults.temperature is None else defaults.temperature,
                "top_p": 1.0 if defaults.top_p is None else defaults.top_p,
                "top_k": defaults.top_k or 0,
                "min_p": defaults.min_p or 0.0,
                "repeat_penalty": 1.0 if defaults.repetition_penalty is None else defaults.repetition_penalty,
            },
        },
        "total_slots": served.engine_config.max_num_seqs,
        "model_alias": served.id,
        "model_path": served.entry.path.name,
        "bos_token": tokenizer.named_tokens.get("bos_token", ""),
        "chat_template": served.llm.chat_template.source,
        "eos_token": tokenizer.named_tokens.get("eos_token", ""),
        "modalities": {"vision": False, "audio": False},
        "build_info": SYSTEM_FINGERPRINT,
        "is_sleeping": not served.is_ready,
    }


def _num_running(context: ServerContext, served: ServedModel, caller: Caller) -> int:
    """Sequences that the caller may know of, as of the worker's last report."""
    stats = served.engine.stats()
    if stats is None or caller.is_admin:
        return 0 if stats is None else stats.scheduler.num_running
    opened = context.open_requests.of_model(served.id)
    running = {sequence.request_id for sequence in stats.cache.sequences}
    return sum(opened[request_id].is_visible_to(caller) for request_id in opened.keys() & running)


def _slots(served: ServedModel, num_running: int) -> list[dict[str, Any]]:
    """A sequence has no slot of its own here; busy ones are counted first."""
    window = served.engine_config.context_window
    return [
        {"id": number, "n_ctx": window, "is_processing": number < num_running}
        for number in range(served.engine_config.max_num_seqs)
    ]
