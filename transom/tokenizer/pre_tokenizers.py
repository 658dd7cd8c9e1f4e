"""Pre-tokenizers of byte-level BPE, by the names that GGUF files give them (`tokenizer.ggml.pre`). Data only.

A pre-tokenizer cuts a text into words before bytes are merged: each pattern in turn cuts every piece so far into its
matches and what lies between them. The names are llama.cpp's. A pattern is the one of the model's own `tokenizer.json`
where that is known, else llama.cpp's. A name that is not here is an error: a guess would give a model other tokens
than it was trained on, and nobody would notice.
"""

from __future__ import annotations

from dataclasses import dataclass

from transom.errors import TokenizerError


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How one family of models cuts text into words, and what else its name decides."""

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    """Regular expressions in the syntax of Oniguruma, applied one after the other."""
    ignores_merges: bool = False
    """A word that is in the vocabulary is that token, whether or not merges lead to it."""
    adds_bos: bool = False
    """Texts begin with the beginning-of-sequence token unless the file says otherwise."""


def find_pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer of this name. TokenizerError names it, and the known ones, when there is none."""
    found = _BY_NAME.get(name)
    if found is None:
        raise TokenizerError(
            f"tokenizer.ggml.pre: the pre-tokenizer {name[:80]!r} is not known; known are {', '.join(sorted(_BY_NAME))}"
        )
    return found


def name_of_pre_tokenizer(patterns: tuple[str, ...], *, ignores_merges: bool) -> str | None:
    """The first name of the pre-tokenizer that cuts by these patterns; None when there is none."""
    matching = (each for each in _PRE_TOKENIZERS if each.patterns == patterns and each.ignores_merges == ignores_merges)
    found = next(matching, None)
    return None if found is None else found.names[0]


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA_3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN_2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_WORDS = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_CASED_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_CASED_CONTRACTED = "|".join(f"{word}{_CONTRACTION}?" for word in _CASED_WORDS)

_CHINESE_AND_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK_3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_CHINESE = "[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    "Ὀ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ"
    "-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_TRAILING_SPACES = r"(?<!\s)\s+$"  # `\s+$`, said so that a long run of spaces is tried once, not from each of them
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

_PRE_TOKENIZERS = (
    PreTokenizer(("default",), (r"[\p{P}\$\+<=>\^~\|]+", _GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")),
    PreTokenizer(
        (
            *("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "a.x-4.0", "mellum"),
            *("exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling"),
        ),
        (_GPT_2,),
    ),
    PreTokenizer(
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
        (r"\p{N}", _GPT_2),
    ),
    PreTokenizer(("falcon",), (r"[\p{P}\$\+<=>\^~\|`]+", _GPT_2, "[0-9][0-9][0-9]")),
    PreTokenizer(
        (
            *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
            "jina-v5-nano",
        ),
        (_LLAMA_3,),
        ignores_merges=True,
        adds_bos=True,
    ),
    PreTokenizer(("dbrx", "smaug-bpe", "chatglm-bpe"), (_LLAMA_3,)),
    PreTokenizer(("glm4", "glm5"), (_LLAMA_3,), ignores_merges=True),
    PreTokenizer(
        ("minicpm5",),
        (r"\p{N}{1,3}", rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"),
        ignores_merges=True,
    ),
    PreTokenizer(
        (
            *("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open"),
            "grok-2",
        ),
        (_QWEN_2,),
    ),
    PreTokenizer(
        ("qwen35",),
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
        ),
    ),
    PreTokenizer(("laguna",), (r"[^\n]+|[\n]+", _QWEN_2)),
    PreTokenizer(("ufakzeka",), (rf"{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}",)),
    PreTokenizer(
        ("seed-coder",),
        (rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",),
    ),
    PreTokenizer(
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    PreTokenizer(
        ("exaone-moe",),
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    PreTokenizer(
        ("tekken",),
        (rf"{'|'.join(_CASED_WORDS)}|\p{{N}}|{_CASED_SYMBOLS}|{_SPACES}",),
        ignores_merges=True,
        adds_bos=True,
    ),
    PreTokenizer(
        ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
        (rf"{_CASED_CONTRACTED}|\p{{N}}{{1,3}}|{_CASED_SYMBOLS}|{_SPACES}",),
    ),
    PreTokenizer(
        ("youtu",),
        (
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
            rf"{_CASED_CONTRACTED}|\p{{N}}|{_CASED_SYMBOLS}|{_SPACES}",
        ),
        ignores_merges=True,
    ),
    PreTokenizer(
        ("deepseek-v3", "step35", "hunyuan-dense", "joyai-llm", "hy_v4"),
        (r"\p{N}{1,3}", _CHINESE_AND_KANA, _DEEPSEEK_3),
    ),
    PreTokenizer(
        ("deepseek-llm",),
        (
            r"[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            _TRAILING_SPACES,
            _DEEPSEEK_CHINESE,
            r"\p{N}+",
        ),
    ),
    PreTokenizer(("deepseek-coder",), (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CHINESE, r"\p{N}")),
    PreTokenizer(("poro-chat", "bloom", "gpt3-finnish"), (_BLOOM,)),
    PreTokenizer(("viking",), (_BLOOM, r"\p{N}")),
)

_BY_NAME = {name: row for row in _PRE_TOKENIZERS for name in row.names}
