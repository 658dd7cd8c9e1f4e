"""Tokens that mean more than their text (`<|im_end|>`), told apart from users' text that merely spells them.

A user's text is first *broken up*: a mark, one character that occurs nowhere else, is put inside every control token
it spells. A template may then trim, split and join it as it likes: a control token that is whole in the result was
written by the template. `MixedEncoder` makes the whole ones tokens and all others text, exactly as the same words would
be tokenized if they had no special meaning; nothing is cut, so merges across the borders stay what they are.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Core

from transom.errors import RequestError


class ControlTokens:
    """A set of token texts to be found in a text. Tokens of a single character cannot be broken up and are left out."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.texts = tuple(sorted({token for token in tokens if len(token) > 1}, key=len, reverse=True))
        any_token = "|".join(map(re.escape, self.texts)) or "(?!)"  # which never matches
        self.pattern = re.compile(any_token)  # the longest token wins, as in the `tokenizers` library
        self._first_character = re.compile(f"(?s:(?=(?:{any_token}))(.))")  # finds tokens that overlap, too

    def break_up(self, text: str, mark: str) -> str:
        """`text` with `mark` after the first character of every control token."""
        return self._first_character.sub(rf"\g<1>{mark}", text)

    def break_up_all(self, value: Any, mark: str) -> Any:
        """The same for every string in a JSON value, keys included."""
        if isinstance(value, str):
            return self.break_up(value, mark)
        if isinstance(value, dict):
            return {self.break_up(key, mark): self.break_up_all(item, mark) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.break_up_all(item, mark) for item in value]
        return value


class MixedEncoder:
    """Encodes text in which some control tokens are meant and others, broken up by a mark, are only spelled.

    A second copy of the tokenizer, blind to all added tokens, in which each has an unguessable alias: aliases take the
    place of the tokens that are meant, and are exchanged for the tokens' ids at the end. Immutable after construction.
    """

    def __init__(self, tokenizer_json: str, unknown_token: str | None) -> None:
        description = json.loads(tokenizer_json)
        added = [token for token in description["added_tokens"] if len(token["content"]) > 1]
        special = {int(token["id"]) for token in added if token["special"] and token["content"] != unknown_token}
        self._never_from_text = frozenset(special)
        for token in added:
            token["special"] = True
        self._core = Core.from_str(json.dumps(description))
        self._core.encode_special_tokens = True  # despite its name: special tokens are encoded as text
        self._meant = ControlTokens(token["content"] for token in added)
        self._aliases = {token["content"]: f"\U0010fffd{secrets.token_hex(16)}" for token in added}
        self._break = f"\U0010fffd{secrets.token_hex(16)}"
        self._core.add_tokens([_alias(token, self._aliases[token["content"]]) for token in added])
        self._core.add_tokens([AddedToken(self._break, normalized=False)])
        self._id_of_alias = {self._id_of(self._aliases[token["content"]]): int(token["id"]) for token in added}

    def encode(self, text: str, mark: str) -> list[int]:
        """Token ids of `text` without its marks.

        Vocabularies that hold a control token's text as an ordinary word would still yield it: then the spelled
        tokens are cut where the mark stands. RequestError when even that does not help.
        """
        text = self._meant.pattern.sub(lambda match: self._aliases[match[0]], text)
        for replacement in ("", self._break):
            ids = token_ids(self._core, text.replace(mark, replacement))
            if self._never_from_text.isdisjoint(ids):
                return self._without_aliases(ids)
        raise RequestError("The text turns into control tokens of the model when it is tokenized.")

    def _without_aliases(self, ids: Sequence[int]) -> list[int]:
        break_id = self._id_of(self._break)
        return [self._id_of_alias.get(token_id, token_id) for token_id in ids if token_id != break_id]

    def _id_of(self, token: str) -> int:
        token_id = self._core.token_to_id(token)
        assert token_id is not None  # it was added above
        return token_id


def token_ids(core: Core, text: str) -> list[int]:
    """Of `text` alone, nothing around it. RequestError for what is no text: command lines and JSON know more."""
    try:
        return core.encode_batch_fast([text], add_special_tokens=False)[0].ids
    except (TypeError, UnicodeEncodeError) as error:
        raise RequestError("The text holds a lone surrogate, which is no Unicode character.") from error


def absent_characters(count: int, *texts: str) -> list[str]:
    """The first `count` characters of the private-use plane that occur in none of `texts`; fit to be marks."""
    used = set().union(*(re.findall("[\U000f0000-\U000ffffd]", text) for text in texts))
    free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in used)
    return [next(free) for _ in range(count)]


def _alias(token: dict[str, Any], alias: str) -> AddedToken:
    return AddedToken(
        alias, normalized=False, lstrip=token["lstrip"], rstrip=token["rstrip"], single_word=token["single_word"]
    )
