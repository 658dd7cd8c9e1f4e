"""The model that is measured, as its files describe it, and what is measured of it. Loads no weights."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from transom.cli.bench.decode_limit import DecodeBytes
from transom.cli.bench.plan import Lengths, check_depths, default_depths
from transom.cli.bench.report import BenchedModel, Tiers
from transom.cli.bench.settings import BenchSettings
from transom.cli.options import ModelOptions
from transom.cli.sources import load_registry, num_threads
from transom.config.cache_options import resolve_cache
from transom.config.engine_config import (
    DEFAULT_NUM_BATCHED_TOKENS,
    EngineConfig,
    kv_bytes_for_tokens,
    kv_bytes_per_token,
    resolve,
)
from transom.config.kv_size import conv_state_bytes
from transom.config.model_config import ModelConfig
from transom.config.registry_config import ModelEntry
from transom.errors import ConfigError
from transom.registry.model_files import read_model_config
from transom.request import CacheOptions, CacheStrategy
from transom.weights.sources import num_parameters, open_weights, quantized_weights

MIB = 2**20

_HOT_SHARE = 4  # one part in so many is in RAM where there is SSD, unless a size is given
_RING_SHARE = 8  # what cold blocks pass through takes one part in so many of the budget
_LEAST_HOT_TOKENS = 1024
_RAM_SHARE = 0.5  # of what is available, that default depths may take


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything that is known before the first measurement."""

    entry: ModelEntry
    model_config: ModelConfig
    engine_config: EngineConfig
    """As the entry gives it; each side has budgets of its own."""
    model: BenchedModel
    decode_bytes: DecodeBytes
    lengths: Lengths
    depths: tuple[int, ...]
    strategies: tuple[CacheOptions, ...]
    ram_bytes: dict[Tiers, int]
    """Budget of keys and values in RAM, by side."""

    @property
    def sides(self) -> tuple[Tiers, ...]:
        """In the order of measuring."""
        return tuple(self.ram_bytes)

    @classmethod
    def prepare(cls, options: ModelOptions, settings: BenchSettings) -> Subject:
        """Reads configuration and headers. Raises ConfigError, UnsupportedModelError, WeightsError."""
        entry = load_registry(options).models[0]
        threads = num_threads(options)
        model_config, engine_config = resolve(entry, read_model_config(entry.path), num_threads=threads)
        window, kv_dtype = engine_config.context_window, engine_config.kv_dtype
        lengths = Lengths.of(window, settings.num_prefill_tokens, settings.num_decode_tokens)
        if settings.depths is None:
            depths = default_depths(min(window, _tokens_in_ram(model_config, kv_dtype, window)) - lengths.num_tokens)
        else:
            depths = check_depths(settings.depths, lengths, window)
        source = quantized_weights(open_weights(entry.path), engine_config.quantization)
        model = BenchedModel(
            id=entry.id,
            dtype=(engine_config.quantization or model_config.dtype),
            num_parameters=num_parameters(source),
            weights_bytes=source.nbytes,
            context_window=window,
            kv_dtype=kv_dtype,
            kv_bytes_per_token=kv_bytes_per_token(model_config, kv_dtype),
        )
        return cls(
            entry,
            model_config,
            engine_config,
            model,
            DecodeBytes.of(model_config, kv_dtype, source),
            lengths,
            depths,
            tuple(_cache_options(entry, strategy, window) for strategy in dict.fromkeys(settings.strategies)),
            _budgets(model_config, kv_dtype, depths[-1] + lengths.num_tokens, lengths, settings),
        )


def _cache_options(entry: ModelEntry, strategy: CacheStrategy, context_window: int) -> CacheOptions:
    """Sizes as the flags or the registry say; what nobody said is no more than the context window allows."""
    said = entry.cache.model_dump(exclude_unset=True)
    sizes = entry.cache.model_dump()
    if "window_size" not in said:
        sizes["window_size"] = min(sizes["window_size"], max(1, context_window // 2))
    if "keep_first" not in said:
        sizes["keep_first"] = min(sizes["keep_first"], sizes["window_size"] // 2)
    if strategy is CacheStrategy.FIFO and "window_size" not in said:
        del sizes["window_size"]
    try:
        return resolve_cache(type(entry.cache).model_validate({**sizes, "strategy": strategy.value}), context_window)
    except ValueError as error:
        raise ConfigError(f"--strategies {strategy.value}: {error}") from None


def _budgets(
    model_config: ModelConfig, kv_dtype: str, num_tokens: int, lengths: Lengths, settings: BenchSettings
) -> dict[Tiers, int]:
    """RAM alone: all of the longest request, and what the last round has left behind."""

    def size_of(tokens: int) -> int:
        num_bytes = kv_bytes_for_tokens(model_config, kv_dtype, tokens, DEFAULT_NUM_BATCHED_TOKENS)
        return _whole_mib(num_bytes + _state_bytes(model_config))

    budgets = {Tiers.RAM: size_of(num_tokens + 2 * lengths.num_tokens)}
    if settings.ssd_bytes:
        hot = max(size_of(num_tokens) // _HOT_SHARE, size_of(min(_LEAST_HOT_TOKENS, num_tokens)))
        budgets[Tiers.RAM_AND_SSD] = settings.ram_bytes or _whole_mib(hot * _RING_SHARE // (_RING_SHARE - 1))
    return budgets


def _tokens_in_ram(model_config: ModelConfig, kv_dtype: str, context_window: int) -> int:
    """How deep default depths may go: KV of the deepest must not take all the memory."""
    room = psutil.virtual_memory().available * _RAM_SHARE
    per_token = kv_bytes_for_tokens(model_config, kv_dtype, context_window) / context_window
    return context_window if per_token == 0 else max(1, int(room / per_token))


def _state_bytes(model_config: ModelConfig) -> int:
    """Of convolutions: those of the sequence, and snapshots that prefix reuse takes."""
    return 8 * conv_state_bytes(model_config)


def _whole_mib(num_bytes: int) -> int:
    return -(-num_bytes // MIB) * MIB
