"""Settings in the words of whoever typed them: an error about a registry key that came from a flag names the flag."""

from __future__ import annotations

import re

from transom.cli.options import ModelOptions

_FLAGS = {
    "max_position_embeddings": ("max_model_len", "--max-model-len"),
    "sliding_window": ("sliding_window", "--sliding-window"),
    "kv_dtype": ("kv_cache_dtype", "--kv-cache-dtype"),
    "kv_cache_ram_mb": ("kv_cache_ram_mb", "--kv-cache-ram-mb"),
    "max_ram_mb": ("max_ram_mb", "--max-ram-mb"),
    "max_ssd_mb": ("max_ssd_mb", "--max-ssd-mb"),
    "ssd_path": ("ssd_path", "--ssd-path"),
    "quantization": ("quantization", "--quantization"),
    "hot_tokens": ("hot_tokens", "--hot-tokens"),
    "enable_prefix_cache": ("enable_prefix_cache", "--enable-prefix-cache"),
    "strategy": ("cache_strategy", "--cache-strategy"),
    "window_size": ("window_size", "--window-size"),
    "keep_first": ("keep_first", "--keep-first"),
    "max_draft_tokens": ("max_draft_tokens", "--max-draft-tokens"),
}
"""Registry key: the option that sets it, the flag that a user types."""


def in_flags(message: str, options: ModelOptions) -> str:
    """`message` with flags in place of the keys that `options` set; `key is value, rule` becomes `flag value: rule`.

    Keys that the command line did not set are left: they stand in a registry file, or are defaults.
    """
    for key, (option, flag) in _FLAGS.items():
        if getattr(options, option) is not None:
            name = rf"(?<![-/\w])(?:(?:tier_config|cache)(?:\.|: ))?{key}\b"
            message = re.sub(rf"{name} is ([^\s,]+), ", rf"{flag} \1: ", message)
            message = re.sub(name, flag, message)
    if (
        options.kv_cache_ram_mb is not None
        and options.max_ram_mb is None
        and re.search(r"max_ram_mb (is )?\d", message)
    ):
        source = "the bundled model's own" if options.config is None else "from the registry file"
        message = f"{message} (max_ram_mb is {source}; --max-ram-mb changes it)"
    if options.max_ssd_mb is not None:
        message = message.replace(" needs ssd_path,", " needs --ssd-path,")  # nobody set it: that is the mistake
    return message
