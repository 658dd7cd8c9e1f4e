"""The vocabulary in a GGUF file's metadata, read and checked. Owns the keys `tokenizer.ggml.*`; encodes nothing.

Keys and their meaning: the GGUF specification and llama.cpp, whose defaults hold where a key is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from transom.errors import TokenizerError

PREFIX = "tokenizer.ggml."
MAX_TOKENS = 2**20
MAX_TOKEN_CHARACTERS = 2**10

_ID_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "eot_token": "eot_token_id",
    "eom_token": "eom_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # spelled so by the format
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
    "fim_prefix_token": "fim_pre_token_id",
    "fim_suffix_token": "fim_suf_token_id",
    "fim_middle_token": "fim_mid_token_id",
    "prefix_token": "prefix_token_id",  # the older names of the three
    "suffix_token": "suffix_token_id",
    "middle_token": "middle_token_id",
}
_ENDING_NAMES = ("eos_token", "eot_token", "eom_token")
_ENDING_TEXTS = frozenset(
    [
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>", "</s>"),
        *("<|end_of_text|>", "<end_of_turn>", "<end_of_utterance>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
        *("<｜end▁of▁sentence｜>", "[e~["),
    ]
)
"""Tokens that end a turn or a text whatever the file says: many files mark them as ordinary, or name only one."""
_ENDS_MERELY_A_MESSAGE = "<|end|>"  # where the model also has the next two, which end a turn
_ENDING_A_TURN = frozenset(["<|return|>", "<|call|>"])

Value = TypeVar("Value", str, bool)


class TokenType(IntEnum):
    """What kind of token an entry of `tokenizer.ggml.token_type` is."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """The tokens of a GGUF file, in the order of their ids."""

    ids: Mapping[str, int]
    """By text; texts are distinct and not empty."""
    types: NDArray[np.int64]
    scores: NDArray[np.float64] | None
    named_ids: Mapping[str, int]
    """`bos_token`, `eos_token`, ... to their ids, as far as the file or the family's defaults have them."""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], *, default_ids: Mapping[str, int]) -> GgufVocabulary:
        """Reads the tokens and all that is said of each. TokenizerError names the key that cannot be used."""
        ids = _ids_by_text(read_texts(metadata, "tokens"))
        named_ids = _named_ids(metadata, default_ids, len(ids))
        types = _read_numbers(metadata, "token_type", len(ids))
        if types is None:  # then all that is known of control tokens is that the file names them
            types = np.full(len(ids), TokenType.NORMAL)
            types[list(named_ids.values())] = TokenType.CONTROL
        types = types.astype(np.int64)
        types[[ids[text] for text in _ENDING_TEXTS & ids.keys()]] = TokenType.CONTROL
        return cls(ids, types, _read_numbers(metadata, "scores", len(ids)), named_ids)

    @property
    def texts(self) -> list[str]:
        """In the order of their ids."""
        return list(self.ids)

    @property
    def named_tokens(self) -> dict[str, str]:
        """Text of `bos_token`, `eos_token`, ..."""
        texts = self.texts
        return {name: texts[token_id] for name, token_id in self.named_ids.items()}

    def of_type(self, *types: TokenType) -> list[str]:
        """The tokens of these types, in the order of their ids."""
        return [text for text, chosen in zip(self.ids, np.isin(self.types, types), strict=True) if chosen]

    @property
    def ending_ids(self) -> frozenset[int]:
        """Ids of the tokens after which a model has nothing more to say: named by the file, or known by their text."""
        known = _ENDING_TEXTS & self.ids.keys()
        if known >= _ENDING_A_TURN:
            known -= {_ENDS_MERELY_A_MESSAGE}
        named = (self.named_ids[name] for name in _ENDING_NAMES if name in self.named_ids)
        return frozenset([*named, *(self.ids[text] for text in known)])


def read_texts(metadata: Mapping[str, object], name: str) -> list[str]:
    """A list of strings. TokenizerError names the key when it is missing or something else."""
    value = metadata.get(PREFIX + name)
    if value is None:
        raise tokenizer_error(name, "is missing")
    if not isinstance(value, list) or any(not isinstance(text, str) for text in value):
        raise tokenizer_error(name, "must be a list of strings")
    return value


def read(metadata: Mapping[str, object], name: str, kind: type[Value], default: Value | None) -> Value | None:
    """One string or one truth value. TokenizerError names the key when it is something else."""
    value = metadata.get(PREFIX + name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise tokenizer_error(name, f"must be of type {kind.__name__}, is {_shown(value)}")
    return value


def _ids_by_text(texts: list[str]) -> dict[str, int]:
    """Empty texts (padding of the model's vocabulary) get a name of their own, as in llama.cpp."""
    if not 0 < len(texts) <= MAX_TOKENS:
        raise tokenizer_error("tokens", f"has {len(texts)} entries, must have 1 to {MAX_TOKENS}")
    longest = max(map(len, texts))
    if longest > MAX_TOKEN_CHARACTERS:
        raise tokenizer_error("tokens", f"has a token of {longest} characters, may have {MAX_TOKEN_CHARACTERS}")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise tokenizer_error("tokens", "has a text that is not Unicode") from None
    named = [text or f"[EMPTY_{index}]" for index, text in enumerate(texts)]
    ids = {text: index for index, text in enumerate(named)}
    if len(ids) != len(texts):
        twice = next(text for index, text in enumerate(named) if ids[text] != index)
        raise tokenizer_error("tokens", f"has the token {_shown(twice)} more than once")
    return ids


def _named_ids(metadata: Mapping[str, object], default_ids: Mapping[str, int], num_tokens: int) -> dict[str, int]:
    ids = {name: token_id for name, token_id in default_ids.items() if token_id < num_tokens}
    for name, key in _ID_KEYS.items():
        value = metadata.get(PREFIX + key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_tokens:
            raise tokenizer_error(key, f"is {_shown(value)}, must be a token id from 0 to {num_tokens - 1}")
        ids[name] = value
    return ids


def _read_numbers(metadata: Mapping[str, object], name: str, num_tokens: int) -> NDArray[Any] | None:
    """One finite number for each token, or None where the key is missing."""
    value = metadata.get(PREFIX + name)
    if value is None:
        return None
    if isinstance(value, list) and not all(isinstance(each, int | float) for each in value):
        raise tokenizer_error(name, "must be an array of numbers")  # NumPy would widen texts to the longest
    try:
        numbers = np.array(value)
    except OverflowError:
        numbers = np.array(None)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise tokenizer_error(name, "must be an array of numbers")
    if len(numbers) != num_tokens:
        raise tokenizer_error(name, f"has {len(numbers)} entries, but there are {num_tokens} tokens")
    if not np.isfinite(numbers).all():
        raise tokenizer_error(name, "has an entry that is no finite number")
    return numbers


def tokenizer_error(name: str, problem: str) -> TokenizerError:
    """What is wrong with the value of `tokenizer.ggml.<name>`."""
    return TokenizerError(f"{PREFIX}{name}: {problem}")


def _shown(value: object) -> str:
    """A value in a message of one line and bounded length."""
    text = " ".join(repr(value).split())  # arrays come on several
    return text if len(text) <= 80 else f"{text[:77]}..."
