"""/openapi.json: the routes with the bodies that they really take. Owns which body belongs to which route.

The bodies are parsed by hand (`json_body`), so the framework does not know them; their schemas are those of the classes
that parse them. What a schema cannot say, such as fields that exclude each other, is a 400 nevertheless.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from transom.server.embeddings import EmbeddingBody
from transom.server.protocol import ChatBody, ChatPromptBody, CompletionBody, DetokenizeBody, TextBody
from transom.server.response_body import ResponseBody
from transom.server.strict_body import StrictBody

_BODIES: dict[str, tuple[type[StrictBody], ...]] = {
    "/completions": (CompletionBody,),
    "/chat/completions": (ChatBody,),
    "/chat/completions/input_tokens": (ChatBody,),
    "/responses": (ResponseBody,),
    "/responses/input_tokens": (ResponseBody,),
    "/embeddings": (EmbeddingBody,),
    "/tokenize": (TextBody, ChatPromptBody),
    "/detokenize": (DetokenizeBody,),
    "/apply-template": (ChatPromptBody,),
}
_PARAMETERS = {
    "/windows": (
        {"name": "model", "in": "query", "schema": {"type": "string"}},
        {"name": "stream", "in": "query", "schema": {"type": "string", "enum": ["true", "false"]}},
    )
}
_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def describe_api(app: FastAPI) -> dict[str, Any]:
    """The document, made once per application. Streams are `text/event-stream`, everything else is JSON."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        bodies = sorted({body for several in _BODIES.values() for body in several}, key=lambda body: body.__name__)
        refs, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF)
        schemas = {name: refs[body, "validation"] for name, body in ((body.__name__, body) for body in bodies)}
        document.setdefault("components", {})["schemas"] = {**definitions["$defs"], "Error": _ERROR}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _complete(operation, _BODIES.get(path.removeprefix("/v1"), ()) if method == "post" else (), schemas)
                _add_parameters(operation, _PARAMETERS.get(path.removeprefix("/v1"), ()))
        app.openapi_schema = document
    return app.openapi_schema


def _complete(operation: dict[str, Any], bodies: tuple[type[StrictBody], ...], schemas: dict[str, Any]) -> None:
    error = {"description": "Refused, with the reason", "content": _json({"$ref": "#/components/schemas/Error"})}
    answer: dict[str, Any] = {"description": "The answer", "content": _json({})}
    if bodies and "stream" in bodies[0].model_fields:
        answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    operation["responses"] = {"200": answer, "4XX": error, "5XX": error}
    if bodies:
        forms = [schemas[body.__name__] for body in bodies]
        schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
        operation["requestBody"] = {"required": True, "content": _json(schema)}


def _add_parameters(operation: dict[str, Any], parameters: tuple[dict[str, Any], ...]) -> None:
    if not parameters:
        return
    operation["parameters"] = list(parameters)
    if any(parameter["name"] == "stream" for parameter in parameters):
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
