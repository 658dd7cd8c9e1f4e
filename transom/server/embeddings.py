"""POST /v1/embeddings: texts or token ids, each made one vector."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import Field, field_validator
from starlette.requests import Request
from starlette.responses import Response

from transom.errors import RequestError
from transom.registry import ServedModel
from transom.request import TokenIds
from transom.server.answering import answer
from transom.server.caller import caller_of
from transom.server.context import ServerContext
from transom.server.gate import Gate
from transom.server.json_body import read_body
from transom.server.plan import Plan, make_vector_plan
from transom.server.prompts import check_prompts, encode_prompt, pack_prompts
from transom.server.protocol import INT32_MAX, CacheSalt, Label, ModelName
from transom.server.request_record import record_of
from transom.server.strict_body import StrictBody
from transom.server.tally import Tally, run_to_end

_MAX_DIMENSIONS = 2**24


class EmbeddingBody(StrictBody):
    """What may be said."""

    UNSUPPORTED: ClassVar = {
        "truncate_prompt_tokens": (),
        "truncation_side": ("left",),
        "embd_normalize": (2,),
        "normalize": (True,),
    }

    model: ModelName | None = None
    input: Any
    """A text, texts, token ids or lists of them; packed as soon as they are checked."""
    dimensions: Annotated[int, Field(ge=1, le=_MAX_DIMENSIONS)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    add_special_tokens: bool = True
    priority: Annotated[int, Field(ge=0, le=INT32_MAX)] = 0
    user: Label | None = None
    safety_identifier: Label | None = None
    request_id: Label | None = None
    session_id: Label | None = None
    prompt_cache_key: Label | None = None
    cache_salt: CacheSalt | None = None

    @property
    def stream(self) -> bool:
        """Vectors come in one piece."""
        return False

    @property
    def sse_ping_interval(self) -> int | None:
        """There is no stream."""
        return None

    @field_validator("input")
    @classmethod
    def _pack_input(cls, value: Any) -> tuple[str | TokenIds, ...]:
        check_prompts(value, "input")
        prompts = pack_prompts(value)
        if "" in prompts:
            raise RequestError("'input' holds an empty text.", param="input")
        return prompts


def embeddings_router(context: ServerContext) -> APIRouter:
    """The route under both of its paths."""
    router = APIRouter()

    async def create_embeddings(request: Request) -> Response:
        context.check_room(request)
        served, body = await _read(context, request)
        gate = context.gate(served, request)
        await context.until_limits_are_known(served, request)
        prompts = await asyncio.to_thread(_encode_all, served, body)
        plan = make_vector_plan(served, prompts, caller=caller_of(request), narrowing=body, priority=body.priority)
        tally = Tally(plan, context.metrics, record_of(request))
        return await answer(_Embeddings(served, body, plan, tally, gate), request, context)

    for path in ("/v1/embeddings", "/embeddings"):
        router.add_api_route(path, create_embeddings, methods=["POST"], response_model=None)
    return router


@dataclass(frozen=True, slots=True)
class _Embeddings:
    """One answer in OpenAI's words."""

    served: ServedModel
    body: EmbeddingBody
    plan: Plan
    tally: Tally
    gate: Gate

    async def whole(self) -> dict[str, Any]:
        """All vectors, in the order of the prompts."""
        completions = await run_to_end(self.plan, self.gate, self.tally)
        usage = self.tally.usage()
        data = [self._embedding(index, completion.vector or ()) for index, completion in enumerate(completions)]
        return {
            "object": "list",
            "id": self.plan.id,
            "created": self.plan.created,
            "model": self.plan.model,
            "data": data,
            "usage": {
                "prompt_tokens": usage.num_prompt_tokens,
                "total_tokens": usage.num_prompt_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
            },
        }

    def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """Nobody asks for them: `EmbeddingBody.stream` is False."""
        raise AssertionError("vectors come in one piece")

    def _embedding(self, index: int, vector: tuple[float, ...]) -> dict[str, Any]:
        finished = finish_vector(vector, self.body.dimensions, normalizes=self.served.pooling.normalizes)
        is_base64 = self.body.encoding_format == "base64"
        shown = base64.b64encode(finished.astype("<f4").tobytes()).decode() if is_base64 else finished.tolist()
        return {"object": "embedding", "index": index, "embedding": shown}


def finish_vector(vector: tuple[float, ...], dimensions: int | None, *, normalizes: bool) -> NDArray[np.float32]:
    """The first `dimensions` numbers, float32, and with `normalizes` of length 1; a vector of zeros stays as it is.

    The length is summed exactly, so it depends on nothing but the numbers.
    """
    cut = np.asarray(vector[:dimensions], np.float64)
    length = math.sqrt(math.fsum((cut * cut).tolist())) if normalizes else 1.0
    return (cut / length if length else cut).astype(np.float32)


async def _read(context: ServerContext, request: Request) -> tuple[ServedModel, EmbeddingBody]:
    def parse(raw: dict[str, Any]) -> EmbeddingBody:
        return EmbeddingBody.parse(raw, allow_unknown_fields=context.settings.allow_unknown_fields)

    body = await read_body(request, context.large_bodies, parse)
    served = context.find_model({"model": body.model}, request)
    _check_can(served, body.dimensions)
    return served, body


def _check_can(served: ServedModel, dimensions: int | None) -> None:
    if served.pooling.unsupported is not None:
        raise RequestError(
            f"The model '{served.id}' gives no embeddings: {served.pooling.unsupported}, which is not supported.",
            param="model",
        )
    own = served.model_config.hidden_size
    if dimensions is not None and dimensions > own:
        raise RequestError(
            f"Invalid value for 'dimensions': the model's vectors have {own} (got {dimensions}).", param="dimensions"
        )


def _encode_all(served: ServedModel, body: EmbeddingBody) -> list[TokenIds]:
    """Blocks for as long as the texts are long. Raises as `LLM.check_context`."""
    prompts = [
        encode_prompt(served, prompt, "input", add_special_tokens=body.add_special_tokens) for prompt in body.input
    ]
    for prompt in prompts:
        served.llm.check_context(len(prompt), 0, "input")
    return prompts
