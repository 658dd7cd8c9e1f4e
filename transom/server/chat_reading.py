"""How one chat's answers are to be read: what its body asks for and what its model's format can say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transom.errors import RequestError
from transom.grammar.structure import Structure
from transom.llm import LLM
from transom.llm.chat_format import AnswerParser, ChatFormat
from transom.llm.tool_parsers.call_grammar import said_of_function
from transom.registry import ServedModel
from transom.request import GrammarSpec
from transom.server.chat_choice import ChatChoice
from transom.server.protocol import ChatBody
from transom.server.structure_fields import compile_prescribed, make_structure

_PROMPT_END = 8
"""Tokens in which an opened reasoning shows."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one request."""

    body: ChatBody
    chat_format: ChatFormat
    is_reasoning_open: bool

    @classmethod
    def of(cls, llm: LLM, body: ChatBody, prompt_ids: Sequence[int]) -> Reading:
        """For a prompt, whose end says whether the answer begins within its reasoning."""
        end = llm.decode(prompt_ids[-_PROMPT_END:], skip_special_tokens=False)
        return cls(body, llm.chat_format, llm.chat_format.is_reasoning_open(end))

    @property
    def separates(self) -> bool:
        """The answer has more parts than its content."""
        return self._separates_reasoning or bool(self.body.chosen_tools.functions)

    @property
    def shown_tokens(self) -> frozenset[str]:
        """Special tokens that the answer cannot be read without."""
        return self.chat_format.shown_tokens if self.separates else frozenset()

    @property
    def new_call_reader(self) -> Callable[[], AnswerParser] | None:
        """Where no second call is wanted, what finds the end of the first: the answer goes no further."""
        calls_once = self.body.chosen_tools.functions and not self.body.parallel_tool_calls
        return self._parser if calls_once else None

    def prescribed(self) -> tuple[str, Structure] | None:
        """The field that prescribes a form, and the form: of calls, or of the text. Raises RequestError."""
        if self.body.chosen_tools.is_required:
            structure = make_structure("tools", lambda _: self._calls(), None)
            return None if structure is None else ("tools", structure)
        prescribed = self.body.prescribed()
        if prescribed is None or not self._separates_reasoning:
            return prescribed
        param, structure = prescribed
        return param, self.chat_format.after_reasoning(structure, is_reasoning_open=self.is_reasoning_open)

    async def grammar(self, served: ServedModel) -> GrammarSpec | None:
        """Of the prescribed form; None for free text. Raises RequestError, naming field or function."""
        prescribed = self.prescribed()
        try:
            return await compile_prescribed(served, prescribed)
        except RequestError as error:
            if prescribed is None or not self.body.chosen_tools.is_required:
                raise
            param, structure = prescribed
            reason = said_of_function(str(error), structure.source, self.body.chosen_tools.functions)
            raise RequestError(reason, param=param, code=error.code) from None

    def new_choice(self) -> ChatChoice:
        """The reader of one sequence."""
        return ChatChoice(
            self._parser(), self.chat_format.tool_format.call_id, include_reasoning=self.body.include_reasoning
        )

    @property
    def _separates_reasoning(self) -> bool:
        return self.chat_format.reasoning is not None and self.body.reasoning_format != "none"

    def _calls(self) -> Structure:
        return self.chat_format.calls(
            self.body.chosen_tools.functions,
            reasons=self._separates_reasoning,
            is_reasoning_open=self.is_reasoning_open,
            parallel=self.body.parallel_tool_calls,
        )

    def _parser(self) -> AnswerParser:
        return self.chat_format.parser(
            self.body.chosen_tools.functions,
            separates_reasoning=self._separates_reasoning,
            is_reasoning_open=self.is_reasoning_open,
            parallel=self.body.parallel_tool_calls,
        )
