"""The tokenizer of the bundled model `recall`: whole words, letter pairs for unknown words, bytes for all the rest.

Owns what is one token; knows nothing of codes and weights. The words come from `recall_words.txt`: the most frequent
ones of *War and Peace*, and everyday, technical and proper names, the more frequent first.
"""

from __future__ import annotations

import itertools
import string
from pathlib import Path
from typing import Any

VOCAB_SIZE = 4096
BOS, EOS = "<|bos|>", "<|eos|>"
BOS_ID, EOS_ID = 0, 1
PRE_TOKEN = r"'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]|\s*[\r\n]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)
WORDS_FILE = Path(__file__).with_name("recall_words.txt")


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (the table of GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(substitutes)) for byte in range(256)]


def numbers_and_gaps() -> list[str]:
    """Pairs of digits, with and without a space before them, a digit after a space, and common white space."""
    pairs = [f"{tens}{ones}" for tens in range(10) for ones in range(10)]
    digits = [f" {digit}" for digit in range(10)]
    return [*pairs, *(f" {pair}" for pair in pairs), *digits, "\n\n", "\r\n", "  ", "   ", "    ", "        "]


def letter_pairs() -> list[tuple[str, str]]:
    """What a word that is not in the vocabulary is spelled in, so that the tokens compared reach further back."""
    lower = string.ascii_lowercase
    return [*itertools.product(" ", string.ascii_letters), *itertools.product(lower, lower)]


def vocabulary() -> dict[str, int]:
    """Token to id: special tokens, bytes, letter pairs, numbers and gaps, words (lines of a file, with their space)."""
    characters = byte_characters()
    pairs = [left + right for left, right in letter_pairs()]
    texts = [*pairs, *numbers_and_gaps(), *WORDS_FILE.read_text(encoding="utf-8").splitlines()]
    words = ["".join(characters[byte] for byte in text.encode()) for text in texts]
    tokens = [BOS, EOS, *characters, *words]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    if not len(ids) == len(tokens) == VOCAB_SIZE:
        raise ValueError(
            f"{WORDS_FILE}: the vocabulary has {len(ids)} different of {len(tokens)} tokens, not {VOCAB_SIZE}"
        )
    return ids


def tokenizer_json() -> dict[str, Any]:
    """The file of the `tokenizers` library: BPE that looks whole pieces up first, then merges bytes to letter pairs.

    All bytes are tokens, so every text comes back as it was.
    """
    space = byte_characters()[ord(" ")]
    merges = [[space if left == " " else left, right] for left, right in letter_pairs()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PRE_TOKEN}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos_piece, text_piece = {"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token} | flags for i, token in ((BOS_ID, BOS), (EOS_ID, EOS))],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos_piece, text_piece],
            "pair": [bos_piece, text_piece, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [BOS_ID], "tokens": [BOS]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocabulary(),
            "merges": merges,
        },
    }


def tokenizer_config_json(context: int) -> dict[str, Any]:
    """Special tokens and the chat template: the contents of the messages, a line each, nothing added."""
    return {
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
