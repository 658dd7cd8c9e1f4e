"""`tools`, `tool_choice` and `parallel_tool_calls` of a chat: what may be called, and whether it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from transom.errors import RequestError
from transom.llm.tool_parsers import Function
from transom.server.strict_body import StrictPart

MAX_TOOLS = 128

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FunctionDefinition(StrictPart):
    """A function that the model may call. `strict` changes nothing: arguments are kept to where they are enforced."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(StrictPart):
    """An entry of `tools`."""

    type: Literal["function"]
    function: FunctionDefinition

    def to_template(self) -> dict[str, Any]:
        """What a chat template sees: every member that templates look for."""
        function = self.function
        parameters = function.parameters or {"type": "object", "properties": {}}
        shown = {"name": function.name, "description": function.description or "", "parameters": parameters}
        return {"type": "function", "function": shown}


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]


class _Named(StrictPart):
    name: str


class _NamedTool(StrictPart):
    type: Literal["function"]
    function: _Named


class _Allowed(StrictPart):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class _AllowedTools(StrictPart):
    type: Literal["allowed_tools"]
    allowed_tools: _Allowed


_CHOICE: TypeAdapter[Any] = TypeAdapter(Literal["none", "auto", "required"] | _NamedTool | _AllowedTools)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What a chat may call."""

    functions: tuple[Function, ...] = ()
    """None: nothing is taken for a call."""
    is_required: bool = False
    """The answer is calls and nothing else."""


def choose_tools(tools: Sequence[Tool] | None, choice: Any) -> ToolChoice:
    """Of a body's `tools` and `tool_choice`. Raises RequestError."""
    functions = {tool.function.name: _function(tool) for tool in tools or ()}
    if len(functions) < len(tools or ()):
        raise RequestError("Two of the 'tools' have the same name.", param="tools")
    parsed = _parse(choice)
    match parsed:
        case None:
            return ToolChoice(tuple(functions.values()))
        case "none":
            return ToolChoice()
        case _ if not functions:
            raise RequestError("'tool_choice' needs 'tools'.", param="tool_choice")
        case "auto" | "required":
            return ToolChoice(tuple(functions.values()), parsed == "required")
        case _NamedTool():
            return ToolChoice(_named(functions, [parsed]), is_required=True)
        case _:
            allowed = parsed.allowed_tools
            return ToolChoice(_named(functions, allowed.tools), allowed.mode == "required")


def _parse(choice: Any) -> Any:
    try:
        return None if choice is None else _CHOICE.validate_python(choice)
    except ValidationError:
        raise RequestError(
            "Invalid value for 'tool_choice': must be 'none', 'auto', 'required', a function of the 'tools' "
            '({"type": "function", "function": {"name": ...}}) or \'allowed_tools\'.',
            param="tool_choice",
        ) from None


def _named(functions: dict[str, Function], named: Sequence[_NamedTool]) -> tuple[Function, ...]:
    names = dict.fromkeys(tool.function.name for tool in named)
    for name in names:
        if name not in functions:
            raise RequestError(
                f"'tool_choice' names '{name[:64]}', which is not among the 'tools'.", param="tool_choice"
            )
    return tuple(functions[name] for name in names)


def _function(tool: Tool) -> Function:
    definition = tool.function
    return Function(definition.name, definition.description, definition.parameters or {"additionalProperties": False})
