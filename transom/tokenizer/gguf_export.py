"""A model's `tokenizer.json` as the keys `tokenizer.ggml.*` of GGUF metadata: the way back of `gguf_tokenizer`.

What the format cannot say is refused by name. What it can say only by a name, the pre-tokenizer, is found by its
regular expressions; one without a name is refused, too. In the end the keys are read back, and must give the same ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import TokenizerError
from transom.tokenizer.gguf_vocabulary import PREFIX, TokenType
from transom.tokenizer.pre_tokenizers import find_pre_tokenizer, name_of_pre_tokenizer
from transom.tokenizer.tokenizer import Tokenizer
from transom.tokenizer.tokenizer_files import ChatTemplateSources, read_json_object

__all__ = ["ExportedTokenizer", "export_tokenizer"]

Value = str | int | bool | list[str] | NDArray[Any]

_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# in the form NFC: that another form is not brought into it is said, not refused
_PROBES = (
    "The quick brown fox jumps over 13 lazy dogs, doesn't it?  It's 1234567.89% sure!\n\n\tindented\r\n    code();",
    " Leading and trailing spaces  ",
    "Ünïcödé, naïve café — „Anführung“ … Größe",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया",
    "你好，世界！今天是2024年。こんにちは、カタカナ。안녕하세요 세계",
    "🙂👩‍👩‍👧‍👦 emoji, \u00a0no-break, zero\u200bwidth",
)


@dataclass(frozen=True, slots=True)
class ExportedTokenizer:
    """Keys for the file, and what is lost, in words."""

    metadata: Mapping[str, Value]
    notes: tuple[str, ...]


def export_tokenizer(
    directory: Path, *, num_tokens: int, bos_token_id: int | None, end_token_ids: Sequence[int]
) -> ExportedTokenizer:
    """The tokenizer and the chat templates of a Hugging Face directory, for a model of `num_tokens` embeddings.

    `end_token_ids` are those that end a text, the most usual first. Raises TokenizerError naming file and feature.
    """
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.from_directory(directory)
    description = _Description(path, read_json_object(path))
    description.refuse_unusual_models()
    notes: list[str] = []
    texts, types = description.tokens(num_tokens)
    if description.model.get("byte_fallback"):
        model = _sentencepiece(description, num_tokens)
    else:
        model = _byte_level(description, notes)
    metadata: dict[str, Value] = {
        **model,
        "tokens": texts,
        "token_type": types,
        **_special_ids(tokenizer, path, bos_token_id, end_token_ids),
    }
    named = {PREFIX + key: value for key, value in metadata.items()}
    _require_same_ids(path, tokenizer, Tokenizer.from_gguf(named))
    return ExportedTokenizer(named | _chat_templates(directory), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Description:
    """A `tokenizer.json`."""

    path: Path
    values: Mapping[str, Any]

    @property
    def model(self) -> Mapping[str, Any]:
        model = self.values.get("model")
        return model if isinstance(model, dict) else {}

    @property
    def ids(self) -> Mapping[str, int]:
        """Of the trained vocabulary; a model of another type keeps it otherwise."""
        ids: Mapping[str, int] = self.model["vocab"]
        return ids

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The earliest first. Older files have them as lines."""
        pairs = (each.split(" ") if isinstance(each, str) else each for each in self.model.get("merges", ()))
        return [(left, right) for left, right in pairs]

    def error(self, problem: str) -> TokenizerError:
        return TokenizerError(f"{self.path}: {problem}")

    def refuse_unusual_models(self) -> None:
        """Anything but byte pairs, and what changes how these are merged or how added tokens are found."""
        kind = self.model.get("type")
        if kind != "BPE":
            raise self.error(f"a tokenizer of type {kind} cannot be written into a GGUF file; supported: BPE")
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(key):
                raise self.error(f"model.{key} cannot be written into a GGUF file")
        for token in self.values.get("added_tokens", ()):
            for flag in ("lstrip", "rstrip", "single_word"):
                if token.get(flag):
                    raise self.error(f"{flag} of token {token['content']!r} cannot be written into a GGUF file")

    def tokens(self, num_tokens: int) -> tuple[list[str], NDArray[np.int32]]:
        """Texts and types by id, up to the number of embeddings: those that no text has are unused."""
        added = {token["id"]: token for token in self.values.get("added_tokens", ())}
        texts = {token_id: text for text, token_id in self.ids.items()}
        texts |= {token_id: token["content"] for token_id, token in added.items()}
        if max(texts, default=-1) >= num_tokens:
            raise self.error(f"has the token id {max(texts)}, but the model has {num_tokens} embeddings")
        types = np.full(num_tokens, TokenType.UNUSED, np.int32)
        for token_id, text in texts.items():
            types[token_id] = self._type(text, added.get(token_id))
        return [texts.get(token_id, f"[PAD{token_id}]") for token_id in range(num_tokens)], types

    def _type(self, text: str, added: Mapping[str, Any] | None) -> TokenType:
        has_bytes = bool(self.model.get("byte_fallback"))
        if has_bytes and text == self.model.get("unk_token"):
            return TokenType.UNKNOWN
        if added is not None:
            return TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED
        return TokenType.BYTE if has_bytes and _BYTE.fullmatch(text) else TokenType.NORMAL


def _steps(part: Mapping[str, Any] | None, members: str) -> list[Mapping[str, Any]]:
    """A sequence of normalizers or pre-tokenizers, one of it, or none."""
    if part is None:
        return []
    return list(part[members]) if part.get("type") == "Sequence" else [part]


# ---- byte-level BPE


def _byte_level(description: _Description, notes: list[str]) -> dict[str, Value]:
    for step in _steps(description.values.get("normalizer"), "normalizers"):
        if step.get("type") != "NFC":
            raise description.error(f"the normalizer {step.get('type')} cannot be written into a GGUF file")
        notes.append("GGUF has no key for the normalizer NFC: text in another form gets other tokens than before")
    patterns = tuple(_patterns(description))
    name = name_of_pre_tokenizer(patterns, ignores_merges=bool(description.model.get("ignore_merges")))
    if name is None:
        shown = ", ".join(map(repr, patterns))
        raise description.error(f"GGUF has no name for this pre-tokenizer, so it cannot be written: {shown[:400]}")
    return {"model": "gpt2", "pre": name, "merges": [f"{left} {right}" for left, right in description.merges]}


def _patterns(description: _Description) -> Iterator[str]:
    """The regular expressions that cut out words, one after the other."""
    steps = _steps(description.values.get("pre_tokenizer"), "pretokenizers")
    if not steps or steps[-1].get("type") != "ByteLevel":
        raise description.error("its pre-tokenizer does not end with ByteLevel, so it cannot be written")
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
                yield pattern
            case {"type": "Digits", "individual_digits": True}:
                yield r"\p{N}"
            case {"type": "ByteLevel", "add_prefix_space": False}:
                if step.get("use_regex", True):
                    yield from find_pre_tokenizer("gpt-2").patterns
            case _:
                raise description.error(f"the pre-tokenizer {step.get('type')}, as set here, cannot be written")


# ---- SentencePiece's BPE


def _sentencepiece(description: _Description, num_tokens: int) -> dict[str, Value]:
    _require_all_pairs(description)
    return {"model": "llama", "add_space_prefix": _adds_space(description), "scores": _scores(description, num_tokens)}


def _require_all_pairs(description: _Description) -> None:
    """SentencePiece has no list of merges: any two tokens merge whose texts together are a third."""
    ids, merges = description.ids, frozenset(description.merges)
    added = {token["content"] for token in description.values.get("added_tokens", ())}
    for text in (text for text in ids if text not in added):
        for cut in range(1, len(text)):
            pair = (text[:cut], text[cut:])
            if pair[0] in ids and pair[1] in ids and pair not in merges and not _BYTE.fullmatch(text):
                raise description.error(
                    f"its merges are not those of SentencePiece ({pair[0]!r} + {pair[1]!r} is none), "
                    "so they cannot be written into a GGUF file"
                )


def _adds_space(description: _Description) -> bool:
    """Whether texts begin with a space; spaces are written as one character."""
    steps = _steps(description.values.get("normalizer"), "normalizers")
    steps += _steps(description.values.get("pre_tokenizer"), "pretokenizers")
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    match steps:
        case [{"type": "Prepend", "prepend": "▁"}, last] if last == escape:
            return True
        case [only] if only == escape:
            return False
        case [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}]:
            return bool(scheme != "never")
    kinds = ", ".join(str(step.get("type")) for step in steps)
    raise description.error(f"this way to write spaces cannot be written into a GGUF file: {kinds or 'none'}")


def _scores(description: _Description, num_tokens: int) -> NDArray[np.float32]:
    """SentencePiece merges the pair whose result scores best: a token scores by the rank of the merge that makes it."""
    ids = description.ids
    scores = np.full(num_tokens, -1e6, np.float32)
    for rank, (left, right) in reversed(list(enumerate(description.merges))):
        scores[ids[left + right]] = -rank
    return scores


# ---- both


def _special_ids(
    tokenizer: Tokenizer, path: Path, bos_token_id: int | None, end_token_ids: Sequence[int]
) -> dict[str, Value]:
    """Which tokens are special, and which the tokenizer puts around a text."""
    marker = -1
    around = tokenizer.surround([marker])
    before, after = around[: around.index(marker)], around[around.index(marker) + 1 :]
    if len(before) > 1 or len(after) > 1 or not {*after} <= {*end_token_ids[:1]}:
        raise TokenizerError(f"{path}: puts {before} before and {after} behind a text, which GGUF cannot say")
    if len(end_token_ids) > len(_END_KEYS):
        raise TokenizerError(
            f"{path}: GGUF has keys for {len(_END_KEYS)} tokens that end a text, not for {len(end_token_ids)}"
        )
    ids: dict[str, Value] = {"add_bos_token": bool(before), "add_eos_token": bool(after)}
    ids |= dict(zip(_END_KEYS, end_token_ids, strict=False))
    named = {"unknown_token_id": "unk_token", "padding_token_id": "pad_token"}
    for key, name in named.items():
        text = tokenizer.named_tokens.get(name)
        token_id = None if text is None else tokenizer.token_to_id(text)
        if token_id is not None:
            ids[key] = token_id
    beginning = before[0] if before else bos_token_id
    return ids if beginning is None else ids | {"bos_token_id": beginning}


def _chat_templates(directory: Path) -> dict[str, Value]:
    templates = ChatTemplateSources.from_directory(directory)
    keys: dict[str, Value] = {}
    if templates.default is not None:
        keys["tokenizer.chat_template"] = templates.default
    if templates.tool_use is not None:
        keys |= {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": templates.tool_use}
    return keys


def _require_same_ids(path: Path, original: Tokenizer, written: Tokenizer) -> None:
    """What was refused by name above is all that is known to differ; this finds what is not known."""
    for text in _PROBES:
        if original.encode(text) != written.encode(text):
            raise TokenizerError(
                f"{path}: cannot be written into a GGUF file: {text[:20]!r}... would become other tokens"
            )
