"""A model's tokens as bytes, and what `llguidance` makes of them. Shared by worker and helper process.

The end of the text is a token of its own behind the vocabulary: a grammar allows an end or does not, and which of the
model's tokens end a sequence is for others to know. Imports little, for the helper process is short of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

Encode = Callable[[str], list[int]]

_SPECIAL = b"\xff"
"""`llguidance`'s sign of a token that no text matches, only its name in a grammar."""
_END = b"<|end of the grammar|>"


class PieceSource(Protocol):
    """What is needed of a tokenizer."""

    @property
    def special_token_ids(self) -> frozenset[int]: ...
    def token_bytes(self, token_id: int) -> bytes: ...
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def id_to_token(self, token_id: int) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Bytes by token id; special tokens have their names instead, and ids without a token are empty."""

    tokens: tuple[bytes, ...]
    special_token_ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PieceSource, vocab_size: int) -> Vocabulary:
        """All tokens of a model. Blocks: half a second for a vocabulary of 128k."""
        special = sorted(token_id for token_id in tokenizer.special_token_ids if token_id < vocab_size)
        tokens = [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)]
        for token_id in special:
            tokens[token_id] = (tokenizer.id_to_token(token_id) or "").encode()
        return cls(tuple(tokens), tuple(special))

    @property
    def end_id(self) -> int:
        """Stands for the end of the text."""
        return len(self.tokens)


class _Wrapper:
    """`llguidance`'s protocol of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, encode: Encode | None) -> None:
        special = frozenset(vocabulary.special_token_ids)
        self.tokens = [_SPECIAL + token if i in special else token for i, token in enumerate(vocabulary.tokens)]
        self.tokens.append(_SPECIAL + _END)
        self.special_token_ids = [*vocabulary.special_token_ids, vocabulary.end_id]
        self.eos_token_id = vocabulary.end_id
        self._vocabulary = vocabulary
        self._encode = encode
        self.greedy: Encode | None = None

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens whose bytes are exactly `text`: as the model's tokenizer cuts it, where it keeps to that."""
        wanted = text if isinstance(text, bytes) else text.encode()
        for ids in self._candidates(wanted.decode("utf-8", "replace")):
            if b"".join(self._vocabulary.tokens[token_id] for token_id in ids) == wanted:
                return ids
        return [] if self.greedy is None else self.greedy(wanted.decode("utf-8", "replace"))

    def _candidates(self, text: str) -> Iterable[list[int]]:
        if self._encode is None:
            return
        yield self._encode(text)
        # Tokenizers that put a space before a text put it before the mark instead.
        ids = self._encode(f"\x02{text}")
        mark = next((i for i, token_id in enumerate(ids) if self._vocabulary.tokens[token_id] == b"\x02"), None)
        if mark is not None:
            yield ids[mark + 1 :]


def make_tokenizer(vocabulary: Vocabulary, encode: Encode | None = None) -> LLTokenizer:
    """`llguidance`'s view of a model's tokens. Blocks: half a second for a vocabulary of 128k.

    `encode` cuts text as the model is used to; where a grammar leaves no choice of bytes it decides which tokens they
    become. Without it the longest tokens win.
    """
    wrapper = _Wrapper(vocabulary, encode)
    tokenizer = LLTokenizer(wrapper)  # type: ignore[arg-type]
    wrapper.greedy = tokenizer.greedy_tokenize
    return tokenizer


def make_matcher(tokenizer: LLTokenizer, source: str) -> LLMatcher:
    """The compiled grammar at its beginning; ValueError with the reason when there is none. Releases the GIL."""
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=_parser_limits())
    if matcher.is_error():
        raise ValueError(reason_of(matcher.get_error()))
    return matcher


def _parser_limits() -> LLParserLimits:
    """What compiling a grammar and each of its steps may cost; beyond, the matcher says so and stops."""
    return LLParserLimits(
        max_items_in_row=2000,
        initial_lexer_fuel=1_000_000,  # about 20 ms
        step_lexer_fuel=200_000,  # about 15 ms
        step_max_items=50_000,  # about 3 ms
        max_lexer_states=32_000,  # about 1.5 KB each
        max_grammar_size=500_000,
        verbose_errors=False,  # they would tell the grammar again
    )


def reason_of(message: str) -> str:
    """`llguidance`'s message as one line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    first = lines[0] if lines else "it cannot be compiled"
    detail = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    text = first if detail is None else f"{first.removesuffix(':')}: {detail}"
    return text[:300]


def is_dead_end(message: str) -> bool:
    """Whether `llguidance`'s message says that no token continues the text, not that a limit was met."""
    return message.startswith("NoExtension")


def is_only_end(mask: bytes, end_id: int) -> bool:
    """Whether `mask`, a bit per token, allows nothing but the end."""
    bits = int.from_bytes(mask, "little")
    return bits == 1 << end_id
