"""`GrammarCompiler`: from what a caller prescribes to a grammar that is known to compile. Owns the helper process.

Nothing hostile gets further than the helper (`process.py`): what takes it too much time or memory, or kills it, is
refused, and the next one gets a fresh helper. What was once decided is remembered.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from transom.errors import RequestError
from transom.grammar.structure import Structure, StructureKind
from transom.grammar.vocabulary import Vocabulary
from transom.limited_process import LimitedProcess, Limits
from transom.request import GrammarSpec

LIMITS = Limits(cpu_seconds=2.0, memory_bytes=512 * 2**20, stack_bytes=4 * 2**20)
"""Of one grammar: the security rules' 2 s and 512 MiB. The worker's threads have twice the stack."""

MAX_REMEMBERED = 256
"""Outcomes kept, of at most some 128 KiB each."""

_SCRIPT = Path(__file__).with_name("process.py")
_PLACE = re.compile(r"^at \d+\(\d+\): ")
"""A line and column in the grammar of `llguidance`, which only those who wrote a grammar have seen."""
_TOO_MUCH = "it takes too much time or memory to compile"


class GrammarCompiler:
    """Of one model. Thread-safe."""

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        """`vocabulary` is asked for the model's tokens when a helper process starts, which the first grammar does."""
        self._vocabulary = vocabulary
        self._process = LimitedProcess(_SCRIPT, LIMITS)
        self._lock = threading.Lock()
        self._outcomes: OrderedDict[Structure, GrammarSpec | str] = OrderedDict()

    def is_known(self, structure: Structure) -> bool:
        """`compile` would answer at once."""
        with self._lock:
            return structure in self._outcomes

    def compile(self, structure: Structure, param: str) -> GrammarSpec:
        """The grammar of a text of this form. RequestError, naming `param` and the reason, when there is none.

        Blocks: milliseconds, up to two seconds for a costly one, and for as long as others are before it.
        """
        with self._lock:
            outcome = self._outcomes.get(structure)
        if outcome is None:
            outcome = self._try(structure)
        self._remember(structure, outcome)
        if isinstance(outcome, str):
            raise RequestError(f"Invalid value for '{param}': {outcome}.", param=param)
        return outcome

    def close(self) -> None:
        """Ends the helper process."""
        self._process.close()

    def _remember(self, structure: Structure, outcome: GrammarSpec | str) -> None:
        with self._lock:
            self._outcomes[structure] = outcome
            self._outcomes.move_to_end(structure)
            if len(self._outcomes) > MAX_REMEMBERED:
                self._outcomes.popitem(last=False)

    def _try(self, structure: Structure) -> GrammarSpec | str:
        """The grammar, or why there is none."""
        question = json.dumps(
            {"kind": structure.kind.value, "source": structure.source, "preamble": structure.preamble}
        )
        setup = None if self._process.is_alive else self._setup()
        answer = self._process.ask(question, setup=setup)
        if answer is None:
            return _TOO_MUCH
        if "error" in answer:
            reason = str(answer["error"]).rstrip(".")
            return reason if structure.kind is StructureKind.GRAMMAR else _PLACE.sub("", reason)
        return GrammarSpec(answer["grammar"], answer["num_bytes"])

    def _setup(self) -> dict[str, object]:
        vocabulary = self._vocabulary()
        tokens = [token.decode("latin-1") for token in vocabulary.tokens]
        return {"tokens": tokens, "special_token_ids": vocabulary.special_token_ids}
