"""`FillInMiddle`: the tokens by which a model is asked for what stands between two texts, and how they are arranged.

prefix token, text before, suffix token, text after, middle token; what the model generates then is the middle (Bavarian
et al., 2022; "PSM"). The families differ in the spelling of the three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.tokenizer.tokenizer import Tokenizer

_SPELLINGS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder: the text after the hole follows its token
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<PRE>", "<SUF>", "<MID>"),
)
_NAMES = (
    ("fim_prefix_token", "fim_suffix_token", "fim_middle_token"),
    ("prefix_token", "suffix_token", "middle_token"),
)
_NEW_LINE = "\n"
_ENDS = (
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<fim_pad>",
    "<file_sep>",
    "<|file_separator|>",
    "▁<EOT>",
    "<EOT>",
)
"""After these a middle has ended, beside the model's own end-of-sequence tokens."""


@dataclass(frozen=True, slots=True)
class FillInMiddle:
    """One model's tokens."""

    prefix_id: int
    suffix_id: int
    middle_id: int
    end_ids: tuple[int, ...]
    """Further tokens that end a middle."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> FillInMiddle | None:
        """Named by the model's file, or known by their texts if they are control tokens; None where there are none."""
        named = tokenizer.named_tokens
        spellings = [tuple(named.get(name, "") for name in names) for names in _NAMES]
        spellings += [texts for texts in _SPELLINGS if tokenizer.added_tokens.issuperset(texts)]
        for texts in spellings:
            ids = [tokenizer.token_to_id(text) for text in texts if text]
            known = [token_id for token_id in ids if token_id is not None]
            if len(known) == len(texts):
                ends = (tokenizer.token_to_id(text) for text in _ENDS if text in tokenizer.added_tokens)
                prefix_id, suffix_id, middle_id = known
                return cls(prefix_id, suffix_id, middle_id, tuple(each for each in ends if each is not None))
        return None

    def arrange(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """The prompt, without the model's own beginning; its continuation is the middle."""
        return [self.prefix_id, *before, self.suffix_id, *after, self.middle_id]


def encode_inner(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text that does not stand at the beginning: without the space that some tokenizers put there."""
    if tokenizer.strip_leading_space(b" a") == b" a":
        return tokenizer.encode(text, add_special_tokens=False)
    before = tokenizer.encode(_NEW_LINE, add_special_tokens=False)
    ids = tokenizer.encode(_NEW_LINE + text, add_special_tokens=False)
    return ids[len(before) :] if ids[: len(before)] == before else tokenizer.encode(text, add_special_tokens=False)
