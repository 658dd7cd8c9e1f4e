"""Small tokenizers of the kinds that models have, made in the tests: byte-level, byte fallback, Unigram, words."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Core

from transom.tokenizer import Tokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps.",
    "Once upon a time there was a little girl, and she said: hello!",
    "Über den Wolken muß die Freiheit wohl grenzenlos sein. 漢字 🎉",
    "user assistant system im_start im_end bos end_of_turn think",
]
SPECIAL = ["<|bos|>", "<|im_start|>", "<|im_end|>"]
NOT_SPECIAL = ["<think>", "</think>"]
NAMED = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>", "pad_token": None}


def byte_level_core() -> Core:
    """A byte-level BPE as of GPT-2, Llama 3, Qwen."""
    core = Core(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    core.add_tokens([AddedToken(token, normalized=False, special=False) for token in NOT_SPECIAL])
    core.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", core.token_to_id("<|bos|>"))]
    )
    return core


def byte_fallback_core() -> Core:
    """A BPE with byte tokens and U+2581 for spaces, as of Llama 2, with its prefix space."""
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("l", "l"), ("ll", "o"), ("he", "llo")]
    letters = [chr(code) for code in range(0x21, 0x7F)]
    pieces = ["<unk>", "<s>", "</s>", *byte_pieces, "▁", *letters, *(left + right for left, right in merges)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    core = Core(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return core


def unigram_core() -> Core:
    """A Unigram model with Metaspace; its control tokens are pieces of the model, too."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁a", "▁dog"]
    pieces += [chr(code) for code in range(0x21, 0x7F)]
    scored = [(piece, 0.0 if index < 3 else -10.0 + len(piece)) for index, piece in enumerate(pieces)]
    core = Core(models.Unigram(scored, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    core.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    return core


def word_level_core() -> Core:
    """Whole words without a decoder: pieces are joined by spaces."""
    words = ["<unk>", "<s>", "the", "dog", "sleeps"]
    core = Core(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" "), "removed")
    core.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>")])
    return core


def write(directory: Path, core: Core, config: dict[str, Any] | None = None) -> Path:
    """The files of a tokenizer in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    core.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return directory


def load(core: Core, config: dict[str, Any] | None = None) -> Tokenizer:
    """A tokenizer by way of its files."""
    with TemporaryDirectory() as directory:
        return Tokenizer.from_directory(write(Path(directory), core, config))


def byte_level() -> Tokenizer:
    """The byte-level tokenizer with named tokens."""
    return load(byte_level_core(), NAMED)


def byte_fallback() -> Tokenizer:
    """The byte-fallback tokenizer with named tokens."""
    return load(byte_fallback_core(), {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"})


def unigram() -> Tokenizer:
    """The Unigram tokenizer with named tokens."""
    return load(unigram_core(), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
