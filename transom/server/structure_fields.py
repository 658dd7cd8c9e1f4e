"""The fields that prescribe an answer's form: OpenAI's `response_format`, vLLM's, llama.cpp's. At most one of them.

Knows what they say; what can be had is `transom.grammar`'s to decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from transom.errors import RequestError
from transom.grammar.structure import Structure
from transom.registry import ServedModel
from transom.request import GrammarSpec
from transom.server.strict_body import StrictBody, StrictPart

_Choices = Annotated[list[str], Field(min_length=1)]


class JsonSchemaFormat(StrictPart):
    """`response_format.json_schema`. Every schema is kept to, `strict` or not."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    content: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictPart):
    """`response_format`. llama.cpp's `schema` beside `json_object` means `json_schema`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    content: dict[str, Any] | bool | None = Field(None, alias="schema")

    def structure(self) -> Structure | None:
        """None for free text. Raises ValueError."""
        if self.json_schema is not None:
            return Structure.json_schema(self.json_schema.content)
        if self.content is not None:
            return Structure.json_schema(self.content)
        return None if self.type == "text" else Structure.json_object()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("'json_schema' belongs to the type 'json_schema', which needs it")
        if self.content is not None and self.type != "json_object":
            raise ValueError("'schema' belongs to the type 'json_object'; with 'json_schema' it is a member of that")
        return self


class StructuredOutputs(StrictPart):
    """vLLM's `structured_outputs`: one of its members."""

    json_: Any = Field(None, alias="json")
    regex: str | None = None
    choice: _Choices | None = None
    grammar: str | None = None
    json_object: bool = False

    def structure(self) -> Structure:
        """Raises ValueError."""
        given: list[tuple[Any, Callable[[Any], Structure]]] = [
            (self.json_, _schema),
            (self.regex, Structure.regex),
            (self.choice, Structure.choice),
            (self.grammar, Structure.grammar),
            (self.json_object or None, lambda _: Structure.json_object()),
        ]
        made = [make(value) for value, make in given if value is not None]
        if len(made) != 1:
            raise ValueError("exactly one of json, regex, choice, grammar and json_object is needed")
        return made[0]


class StructureFields(StrictBody):
    """The part of a body that prescribes a form."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: _Choices | None = None
    guided_grammar: str | None = None
    json_schema: dict[str, Any] | bool | None = None
    grammar: str | None = None

    def prescribed(self) -> tuple[str, Structure] | None:
        """The field that prescribes a form, and the form; None for free text. Raises RequestError."""
        makers: dict[str, Callable[[Any], Structure | None]] = {
            "response_format": ResponseFormat.structure,
            "structured_outputs": StructuredOutputs.structure,
            "guided_json": _schema,
            "guided_regex": Structure.regex,
            "guided_choice": Structure.choice,
            "guided_grammar": Structure.grammar,
            "json_schema": _schema,
            "grammar": Structure.grammar,
        }
        given = {name: getattr(self, name) for name in makers if getattr(self, name) is not None}
        made = {name: make_structure(name, makers[name], value) for name, value in given.items()}
        found = [(name, structure) for name, structure in made.items() if structure is not None]
        if len(found) > 1:
            raise RequestError(f"'{found[0][0]}' and '{found[1][0]}' exclude each other.", param=found[1][0])
        return found[0] if found else None


async def compile_prescribed(served: ServedModel, prescribed: tuple[str, Structure] | None) -> GrammarSpec | None:
    """The grammar of (field, form); None for free text. Raises RequestError, naming the field."""
    if prescribed is None:
        return None
    param, structure = prescribed
    return await served.llm.compile_grammar(structure, param)


def make_structure(name: str, make: Callable[[Any], Structure | None], value: Any) -> Structure | None:
    """What `make` makes of the field `name`; its ValueError becomes a RequestError."""
    try:
        return make(value)
    except ValueError as error:
        raise RequestError(f"Invalid value for '{name}': {error}.", param=name) from None


def _schema(value: Any) -> Structure:
    """A schema, or vLLM's other way to write one: as a text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
    return Structure.json_schema(value)
