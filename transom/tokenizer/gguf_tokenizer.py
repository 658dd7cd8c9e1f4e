"""A tokenizer of the `tokenizers` library from the metadata of a GGUF file. Knows no templates and reads no files.

Two models are made: SentencePiece's BPE ("llama"), which merges the pair whose result has the best score, and
byte-level BPE ("gpt2"), which merges by an explicit list, within words that a pre-tokenizer cut out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Core

from transom.tokenizer.gguf_vocabulary import GgufVocabulary, TokenType, read, read_texts, tokenizer_error
from transom.tokenizer.piece_decoder import PieceDecoder
from transom.tokenizer.pre_tokenizers import PreTokenizer, find_pre_tokenizer
from transom.tokenizer.tokenizer_files import TokenizerSettings

_SPACE = "▁"  # how SentencePiece writes a space
_MAX_MERGES = 2**21
_MAX_TOTAL_CHARACTERS = 2**23  # of tokens whose merges are derived; vocabularies of 256k tokens have 2 million
_SENTENCEPIECE_DEFAULT_IDS = {"unk_token": 0, "bos_token": 1, "eos_token": 2}

_STRIPPING_MODELS = ("phi-3", "phi3")
_NOT_STRIPPING_TOKENS = frozenset(["<unk>", "<s>", "<|endoftext|>"])


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What a `Tokenizer` is made of."""

    core: Core
    settings: TokenizerSettings
    pieces: PieceDecoder

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> GgufTokenizer:
        """Makes the tokenizer that `tokenizer.ggml.*` describes. TokenizerError names the key that cannot be used."""
        model = read(metadata, "model", str, None)
        make = _MODELS.get(model or "")
        if make is None:
            problem = "is missing" if model is None else f"the model {model[:80]!r} is not supported"
            raise tokenizer_error("model", f"{problem}; supported are {', '.join(_MODELS)}")
        return make(metadata)


def _sentencepiece(metadata: Mapping[str, object]) -> GgufTokenizer:
    vocabulary = GgufVocabulary.from_metadata(metadata, default_ids=_SENTENCEPIECE_DEFAULT_IDS)
    unknown = vocabulary.named_tokens.get("unk_token")
    if unknown is None and not {f"<0x{byte:02X}>" for byte in range(256)} <= vocabulary.ids.keys():
        raise tokenizer_error("tokens", "has neither a token for each byte nor one for what is unknown")
    merges = _merges_by_score(vocabulary)
    model = _bpe(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    core = Core(model)
    escape = normalizers.Replace(" ", _SPACE)
    adds_space = bool(read(metadata, "add_space_prefix", bool, True))
    # Each stretch of text between tokens that are taken out first is normalized, and begins with a space, by itself.
    core.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), escape]) if adds_space else escape
    _add_tokens(core, vocabulary, str(metadata.get("general.name", "")))
    stages = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Strip", "content": " ", "start": int(adds_space), "stop": 0},
    ]
    return _finished(metadata, core, vocabulary, {"type": "Sequence", "decoders": stages}, adds_bos=True)


def _byte_level(metadata: Mapping[str, object]) -> GgufTokenizer:
    name = read(metadata, "pre", str, None)
    if name is None:
        raise tokenizer_error("pre", "is missing, so how the model's words are cut out is not known")
    pre_tokenizer = find_pre_tokenizer(name)
    vocabulary = GgufVocabulary.from_metadata(metadata, default_ids={})
    merges = _listed_merges(read_texts(metadata, "merges"))
    core = Core(_bpe(vocabulary, merges, ignore_merges=pre_tokenizer.ignores_merges))
    core.pre_tokenizer = _pre_tokenizer(pre_tokenizer)
    _add_tokens(core, vocabulary, str(metadata.get("general.name", "")))
    return _finished(metadata, core, vocabulary, {"type": "ByteLevel"}, adds_bos=pre_tokenizer.adds_bos)


_MODELS: Mapping[str, Callable[[Mapping[str, object]], GgufTokenizer]] = {"llama": _sentencepiece, "gpt2": _byte_level}


def _merges_by_score(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """The merges that SentencePiece's rule amounts to: two tokens whose texts together are a third, best score first.

    Control tokens and bytes are never the result: SentencePiece does not make them of text.
    """
    if vocabulary.scores is None:
        raise tokenizer_error("scores", "is missing")
    if sum(map(len, vocabulary.ids)) > _MAX_TOTAL_CHARACTERS:
        raise tokenizer_error("tokens", f"has more than {_MAX_TOTAL_CHARACTERS} characters in all")
    texts, ids = vocabulary.texts, vocabulary.ids
    mergeable = ~np.isin(vocabulary.types, (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE))
    order = np.argsort(-vocabulary.scores, kind="stable")
    merges: list[tuple[str, str]] = []
    for text in map(texts.__getitem__, order[mergeable[order]].tolist()):
        cuts = range(len(text) - 1, 0, -1)
        merges += [(text[:cut], text[cut:]) for cut in cuts if text[:cut] in ids and text[cut:] in ids]
        if len(merges) > _MAX_MERGES:
            raise tokenizer_error("tokens", f"has more than {_MAX_MERGES} pairs that make a token")
    return merges


def _listed_merges(lines: list[str]) -> list[tuple[str, str]]:
    """`tokenizer.ggml.merges`: two tokens with a space between them, the earliest merge first."""
    pairs = [tuple(line.split(" ")) for line in dict.fromkeys(lines)]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) < len(pairs):
        raise tokenizer_error("merges", "has an entry that is not two tokens with a space between them")
    return merges


def _bpe(vocabulary: GgufVocabulary, merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(dict(vocabulary.ids), merges, **options)
    except Exception as error:  # the library raises nothing narrower; it names the token
        raise tokenizer_error("merges", f"cannot be used: {str(error).splitlines()[0][:200]}") from error


def _pre_tokenizer(row: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in row.patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _add_tokens(core: Core, vocabulary: GgufVocabulary, model_name: str) -> None:
    """Tokens that are taken out of a text before anything else; the special ones only where they are meant."""
    strips = any(name in model_name.lower() for name in _STRIPPING_MODELS)
    special = set(vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN))
    core.add_tokens(
        [
            AddedToken(
                text,
                special=text in special,
                normalized=False,
                rstrip=strips and text not in _NOT_STRIPPING_TOKENS,
            )
            for text in vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        ]
    )


def _finished(
    metadata: Mapping[str, object],
    core: Core,
    vocabulary: GgufVocabulary,
    decoder: Mapping[str, Any],
    *,
    adds_bos: bool,
) -> GgufTokenizer:
    add_bos = read(metadata, "add_bos_token", bool, None)
    add_eos = read(metadata, "add_eos_token", bool, False)
    for flag, name in ((add_bos, "bos"), (add_eos, "eos")):
        if flag and f"{name}_token" not in vocabulary.named_ids:
            raise tokenizer_error(f"add_{name}_token", f"is true, but {name}_token_id is missing")
    settings = TokenizerSettings(
        named_tokens=vocabulary.named_tokens,
        extra_special_tokens=(),
        add_bos_token=adds_bos if add_bos is None else add_bos,
        add_eos_token=add_eos,
        end_token_ids=vocabulary.ending_ids,
    )
    literal = vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
    return GgufTokenizer(core, settings, PieceDecoder.from_json(decoder, literal=literal))
