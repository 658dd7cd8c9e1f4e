"""Text to token ids and back, over the `tokenizers` library. Knows no templates, no stop strings and no requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Core

from transom.errors import TokenizerError
from transom.tokenizer.control_tokens import ControlTokens, MixedEncoder, absent_characters, token_ids
from transom.tokenizer.gguf_tokenizer import GgufTokenizer
from transom.tokenizer.piece_decoder import PieceDecoder
from transom.tokenizer.tokenizer_files import TokenizerSettings


class Tokenizer:
    """A model's tokenizer. Safe to share between threads.

    `encode` may take long for large texts: it releases the GIL, so run it in a thread (`asyncio.to_thread`).
    """

    def __init__(self, core: Core, settings: TokenizerSettings, pieces: PieceDecoder | None = None) -> None:
        """`pieces`: how vocabulary entries become bytes; None is as the core's own decoder says."""
        self._core = core
        core.no_truncation()  # a tokenizer.json may carry the settings of its training
        core.no_padding()
        added_tokens = core.get_added_tokens_decoder().values()
        self.named_tokens: Mapping[str, str] = settings.named_tokens
        """Text of `bos_token`, `eos_token`, ...: what templates know by these names."""
        self.added_tokens: frozenset[str] = frozenset(token.content for token in added_tokens)
        """Texts of all tokens beside the trained vocabulary, special or not."""
        self.special_tokens: frozenset[str] = self._special_tokens(added_tokens, settings)
        self.special_token_ids: frozenset[int] = frozenset(map(self._known_id, self.special_tokens))
        self._special = ControlTokens(self.special_tokens)
        self.vocab_size: int = core.get_vocab_size()
        """Number of token ids, added tokens included; a model's own `vocab_size` may be larger."""
        self.end_token_ids: frozenset[int] = settings.end_token_ids
        """Tokens after which the model has nothing more to say, as far as its tokenizer knows; may be empty."""
        self.kind: str = type(core.model).__name__
        """BPE, Unigram, WordPiece or WordLevel."""
        self._pieces = _own_pieces(core) if pieces is None else pieces
        self._unknown_token = _unknown_token(settings.named_tokens)
        self._control_ids = self.special_token_ids - {core.token_to_id(self._unknown_token or "")}
        self._normalizes_control_tokens = core.normalizer is not None and any(
            token.normalized for token in added_tokens
        )
        self._prefix_ids, self._suffix_ids = self._surroundings(settings)

    @classmethod
    def from_directory(cls, directory: Path) -> Tokenizer:
        """Reads `tokenizer.json` and its companions; TokenizerError names the file that cannot be used."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{path}: there is no such file")
        try:
            core = Core.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(f"{path}: cannot be read: {error}") from error
        return cls(core, TokenizerSettings.from_directory(directory))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """From the keys `tokenizer.ggml.*` of a GGUF file; TokenizerError names the key that cannot be used."""
        made = GgufTokenizer.from_metadata(metadata)
        return cls(made.core, made.settings, made.pieces)

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`.

        `add_special_tokens` puts the model's own beginning and end around it. Special tokens that `text` spells out
        stay text, unless `parse_special_tokens`. Blocks; releases the GIL. RequestError for text that is no Unicode.
        """
        ids = self._parse(text)
        if not parse_special_tokens and not self._control_ids.isdisjoint(ids):
            mark = absent_characters(1, text)[0]
            ids = self._mixed.encode(self._special.break_up(text, mark), mark)
        return self.surround(ids) if add_special_tokens else ids

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """Token ids of a text whose control tokens count, except those that hold `mark`; nothing is put around."""
        if mark in text:
            return self._mixed.encode(text, mark)
        ids = self._parse(text)
        return self._mixed.encode(text, mark) if self._control_tokens_appeared(text, ids) else ids

    def surround(self, ids: list[int]) -> list[int]:
        """`ids` with the model's own beginning and end."""
        return [*self._prefix_ids, *ids, *self._suffix_ids]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`, byte for byte; U+FFFD where the bytes are no UTF-8. Ids without a token are empty."""
        skipped = self.special_token_ids if skip_special_tokens else frozenset()
        pieces = [piece for piece in (self.token_bytes(i) for i in ids if i not in skipped) if piece]
        if pieces:
            pieces[0] = self.strip_leading_space(pieces[0])
        return b"".join(pieces).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token adds to a text; none for an id without a token (padding of the model's vocabulary).

        Raises IndexError for a negative id.
        """
        piece = self.id_to_token(token_id)
        if piece is None:
            return b""
        return self._pieces(piece)

    def strip_leading_space(self, piece: bytes) -> bytes:
        """What remains of the first token's bytes at the start of a text."""
        return self._pieces.strip_leading_space(piece)

    def token_to_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, spelled as the model's files spell it."""
        return self._core.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary entry with this id, or None. Raises IndexError for a negative id."""
        if not 0 <= token_id < 2**31:
            raise IndexError(f"{token_id} is not a token id")
        return self._core.id_to_token(token_id)

    def tokens_beyond(self, vocab_size: int) -> tuple[str, ...]:
        """The entries, by their ids, that a model with so many embeddings does not know. Walks all of them."""
        ids = ((token_id, token) for token, token_id in self._core.get_vocab().items() if token_id >= vocab_size)
        return tuple(token for _, token in sorted(ids))

    @cached_property
    def _mixed(self) -> MixedEncoder:
        """A second copy of the tokenizer, made when the first text comes that spells a control token."""
        return MixedEncoder(self._core.to_str(), self._unknown_token)

    def _parse(self, text: str) -> list[int]:
        return token_ids(self._core, text)

    def _control_tokens_appeared(self, text: str, ids: list[int]) -> bool:
        """Whether normalization made control tokens of text that did not spell any."""
        if not self._normalizes_control_tokens:
            return False
        num_written = sum(text.count(token) for token in self.special_tokens)
        return sum(token_id in self._control_ids for token_id in ids) > num_written

    def _special_tokens(self, added_tokens: Iterable[AddedToken], settings: TokenizerSettings) -> frozenset[str]:
        flagged = {token.content for token in added_tokens if token.special}
        declared = {*settings.named_tokens.values(), *settings.extra_special_tokens} & self.added_tokens
        return frozenset(flagged | declared)

    def _surroundings(self, settings: TokenizerSettings) -> tuple[list[int], list[int]]:
        if settings.add_bos_token is not None or settings.add_eos_token is not None:
            return (
                self._named_id("bos_token") if settings.add_bos_token else [],
                self._named_id("eos_token") if settings.add_eos_token else [],
            )
        encoding = self._core.encode("a", add_special_tokens=True)
        own = encoding.special_tokens_mask.index(0) if 0 in encoding.special_tokens_mask else len(encoding.ids)
        num_text_ids = encoding.special_tokens_mask.count(0)
        return encoding.ids[:own], encoding.ids[own + num_text_ids :]

    def _named_id(self, name: str) -> list[int]:
        token = self.named_tokens.get(name)
        token_id = None if token is None else self._core.token_to_id(token)
        return [] if token_id is None else [token_id]

    def _known_id(self, token: str) -> int:
        token_id = self._core.token_to_id(token)
        assert token_id is not None  # added tokens have ids
        return token_id


def _own_pieces(core: Core) -> PieceDecoder:
    return PieceDecoder.from_json(None if core.decoder is None else json.loads(core.decoder.__getstate__()))


def _unknown_token(named_tokens: Mapping[str, str]) -> str | None:
    """What stands for text without a token. One that also has another meaning may not come from text unnoticed."""
    unknown = named_tokens.get("unk_token")
    others = [token for name, token in named_tokens.items() if name != "unk_token"]
    return None if unknown in others else unknown
