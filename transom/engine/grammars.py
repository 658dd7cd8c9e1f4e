"""`Grammars`: what sequences of an engine may write, computed while the forward pass runs. Owns threads and a cache.

Compiling takes milliseconds to seconds, so it has a thread of its own, and whoever waits for it does not run yet. The
allowed tokens of a step depend on the tokens generated so far, which are known before the forward pass begins, so
another thread computes them meanwhile; unless a hand-over would take longer than they do: then they are computed at
once, while what they need is in the processor's caches.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from transom.errors import EngineError
from transom.grammar.matcher import Allowed, GrammarStuckError, Matcher
from transom.grammar.vocabulary import make_matcher
from transom.request import GrammarSpec
from transom.scheduler.sequence import Sequence

logger = logging.getLogger(__name__)

MAX_COMPILED = 16
MAX_COMPILED_BYTES = 64 * 2**20
"""Compiled grammars that are kept, idle ones included. Each grows with use, by some 50 MiB at the very most."""

_QUICK_SECONDS = 100e-6
"""CPU time of allowed tokens that are computed at once. A hand-over to another thread and back takes as long."""

_Compiled = Future[LLMatcher]


@dataclass(frozen=True, slots=True)
class NextTokens:
    """What one sequence may be given next."""

    text: Allowed
    ceilings: NDArray[np.float32]
    """Those of `text`, lifted where the text may end for the tokens that end the sequence. [vocab_size]"""


@dataclass(frozen=True, slots=True)
class Known:
    """What needs no computing any more: a tenth of a future's cost."""

    next_tokens: NextTokens

    def result(self, timeout: float | None = None) -> NextTokens:  # noqa: ARG002 - as a future has it
        return self.next_tokens


Following = Future[NextTokens] | Known


class Grammars:
    """Of one engine, used by its thread alone. `make_tokenizer` is called once, by the compiling thread."""

    def __init__(self, make_tokenizer: Callable[[], LLTokenizer]) -> None:
        self._make_tokenizer = make_tokenizer
        self._compiling = ThreadPoolExecutor(1, "grammar-compiler")
        self._computing = ThreadPoolExecutor(1, "grammar-masks")
        self._lock = threading.Lock()
        self._compiled: OrderedDict[GrammarSpec, _Compiled] = OrderedDict()
        self._matchers: WeakKeyDictionary[Sequence, Matcher] = WeakKeyDictionary()

    def prepare(self, grammar: GrammarSpec | None) -> None:
        """Begins to compile, if need be."""
        if grammar is not None:
            self._compiled_of(grammar)

    def is_ready(self, grammar: GrammarSpec | None) -> bool:
        """A sequence under this grammar can run; also when the grammar turned out to be unusable."""
        return grammar is None or self._compiled_of(grammar).done()

    def begin(self, sequence: Sequence, end_token_ids: tuple[int, ...]) -> Following:
        """Computes what may follow the sequence's tokens. `end_token_ids` end it, where the text may end.

        The result raises EngineError where the grammar cannot be followed.
        """
        matcher = self._matchers.get(sequence)
        if matcher is not None and matcher.has_computed:
            with suppress(EngineError):  # the thread meets it again, and its future keeps it
                return Known(self._next_tokens(sequence, end_token_ids))
        return self._computing.submit(self._next_tokens, sequence, end_token_ids)

    def take(self, sequence: Sequence, token_id: int, allowed: NextTokens) -> bool:
        """The sequence goes on with `token_id`; whether its text is complete by that."""
        if allowed.text.ceilings[token_id] < 0:
            return False  # it ends the sequence, and is no part of the text
        matcher = self._matchers[sequence]
        try:
            is_complete = matcher.take(token_id)
            if not is_complete and matcher.last_cpu_seconds <= _QUICK_SECONDS:
                matcher.allowed()
            return is_complete
        except GrammarStuckError:
            self._forget(sequence)  # the next step finds out whether it is at its end, or begins afresh
            return False

    def _next_tokens(self, sequence: Sequence, end_token_ids: tuple[int, ...]) -> NextTokens:
        try:
            text = self._allowed(sequence)
        except GrammarStuckError:
            # What all sequences of a grammar have learnt about it is bounded; one alone may still get along.
            logger.info("a grammar is compiled again", extra={"sequence_id": sequence.request_id})
            text = self._allowed_afresh(sequence)
        if not (text.end and end_token_ids):
            return NextTokens(text, text.ceilings)
        ceilings = text.ceilings.copy()
        ceilings[list(end_token_ids)] = np.inf
        return NextTokens(text, ceilings)

    def _allowed(self, sequence: Sequence) -> Allowed:
        matcher = self._matchers.get(sequence)
        if matcher is None:
            matcher = self._matchers[sequence] = self._new_matcher(self._compiled_of(_grammar(sequence)).result())
        matcher.catch_up(_generated(sequence))
        return matcher.allowed()

    def _allowed_afresh(self, sequence: Sequence) -> Allowed:
        self._forget(sequence)
        try:
            return self._allowed(sequence)
        except GrammarStuckError as error:
            raise EngineError(f"The generated text cannot be continued under the request's grammar: {error}.") from None

    def _forget(self, sequence: Sequence) -> None:
        self._matchers.pop(sequence, None)
        with self._lock:
            self._compiled.pop(_grammar(sequence), None)

    def _new_matcher(self, compiled: LLMatcher) -> Matcher:
        return Matcher(compiled, self._tokenizer.vocab_size - 1)

    def _compiled_of(self, grammar: GrammarSpec) -> _Compiled:
        with self._lock:
            compiled = self._compiled.get(grammar)
            if compiled is None:
                self._forget_old()
                compiled = self._compiled[grammar] = self._compiling.submit(self._compile, grammar)
            self._compiled.move_to_end(grammar)
        return compiled

    def _compile(self, grammar: GrammarSpec) -> LLMatcher:
        try:
            return make_matcher(self._tokenizer, grammar.source)
        except ValueError as error:
            raise EngineError(f"The grammar cannot be compiled: {error}.") from None

    def _forget_old(self) -> None:
        """Makes room for one more; those under way stay."""
        num_bytes = sum(grammar.num_bytes for grammar in self._compiled)
        for grammar in [grammar for grammar, compiled in self._compiled.items() if compiled.done()]:
            if len(self._compiled) < MAX_COMPILED and num_bytes <= MAX_COMPILED_BYTES:
                return
            num_bytes -= grammar.num_bytes
            del self._compiled[grammar]

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return self._make_tokenizer()


def _grammar(sequence: Sequence) -> GrammarSpec:
    assert sequence.sampling.grammar is not None
    return sequence.sampling.grammar


def _generated(sequence: Sequence) -> NDArray[np.int32]:
    return sequence.token_ids[sequence.num_prompt_tokens :]
