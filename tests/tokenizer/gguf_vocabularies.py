"""Vocabularies as the metadata of GGUF files hold them: small ones made here, and real ones where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tokenizer import small_tokenizers as small
from transom.tokenizer.gguf_vocabulary import TokenType

REAL = Path(__file__).parents[2] / ".." / "shared" / "vocab"
SEPARATOR = "\n__ggml_vocab_test__\n"

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_WORDS = ["▁t", "he", "▁the", "▁a", "ll", "llo", "hello", "▁▁", "▁▁▁▁", "▁▁▁", "aa", "aaaa", "aaa", "tool"]


def sentencepiece(**changes: Any) -> dict[str, Any]:
    """A model as of Llama 2; a change is a key of `tokenizer.ggml`, None takes it away."""
    letters = ["▁", *(chr(code) for code in range(0x21, 0x7F))]
    tokens = ["<unk>", "<s>", "</s>", *_BYTES, *_WORDS, *letters, "<|user|>", "<tool>"]
    num_plain = len(_WORDS) + len(letters)
    scores = [0.0] * 259 + [-float(index) for index in range(num_plain)] + [-1000.0, -1000.0]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    types += [TokenType.NORMAL] * num_plain + [TokenType.CONTROL, TokenType.USER_DEFINED]
    return _with_changes(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": [int(token_type) for token_type in types],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
        },
        changes,
    )


def byte_level(**changes: Any) -> dict[str, Any]:
    """The byte-level tokenizer of `small_tokenizers`, trained there, as GGUF metadata."""
    core = small.byte_level_core()
    vocab = core.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    types = {
        **dict.fromkeys(small.SPECIAL, TokenType.CONTROL),
        **dict.fromkeys(small.NOT_SPECIAL, TokenType.USER_DEFINED),
    }
    return _with_changes(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [int(types.get(token, TokenType.NORMAL)) for token in tokens],
            "tokenizer.ggml.merges": merges_of(core),
            "tokenizer.ggml.bos_token_id": vocab["<|bos|>"],
            "tokenizer.ggml.eos_token_id": vocab["<|im_end|>"],
        },
        changes,
    )


def merges_of(core: Any) -> list[str]:
    """The merges of a BPE model, as GGUF files write them."""
    return [" ".join(pair) for pair in json.loads(core.to_str())["model"]["merges"]]


def _with_changes(metadata: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in changed.items() if value is not None}
