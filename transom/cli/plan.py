"""`transom plan`: what a model would take and hold here, found without loading anything. Prints nothing.

The numbers are those of the worker: the same functions resolve the entry, size the weights and divide the budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from transom.cli.measured_machine import MeasuredMachine, cache_file
from transom.cli.options import ModelOptions
from transom.cli.sources import load_registry, num_threads
from transom.config.engine_config import EngineConfig, resolve, workspace_bytes
from transom.config.model_config import ModelConfig
from transom.config.registry_config import ModelEntry
from transom.engine.memory_plan import MemoryPlan, least_kv_ram_mb, least_ssd_mb
from transom.engine.speed_estimate import SpeedEstimate
from transom.errors import ConfigError
from transom.models import claimed_weights, weight_sizes
from transom.registry.model_files import read_model_config
from transom.weights.gguf import find_gguf
from transom.weights.sources import SizedWeightSource, open_weights, quantized_weights
from transom.weights.weight_sizes import WeightSizes

__all__ = ["ModelPlan", "PlanWish", "SpeedRow", "make_plan"]

MIB = 2**20
DEFAULT_COLD_DIRECTORY = Path("transom-cold")

_DEPTHS = (16, 1024, 4096, 16384, 65536)
_PROMPT = 512


@dataclass(frozen=True, slots=True)
class PlanWish:
    """What is asked for; None = whatever is usual."""

    model: ModelOptions
    context: int | None = None
    """Tokens of one request."""
    ram_mb: int | None = None
    """For the model's whole process."""
    parallel: int | None = None
    """Requests at once."""
    measures_speed: bool = True
    measures_again: bool = False


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """Expected at one depth, in tokens per second."""

    depth: int
    decode: float
    prefill: float
    """Of the next tokens of a prompt."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Everything that `transom plan` says."""

    entry: ModelEntry
    """To be pasted into a registry file."""
    model_config: ModelConfig
    engine_config: EngineConfig
    has_weights: bool
    """False: their sizes are those that the configuration claims."""
    weights: WeightSizes
    memory: MemoryPlan
    num_tokens: int
    """Of a request, as asked for, or the context window."""
    num_parallel: int
    available_ram_bytes: int
    needed_ram_mb: int | None
    """For the whole process, where what was asked for does not fit; None: it fits, or no RAM is enough."""
    needed_ssd_mb: int | None
    """Instead, where a cold tier could help."""
    speeds: tuple[SpeedRow, ...]
    prompt_seconds: float | None
    """Until a prompt of `num_tokens` is read."""

    @property
    def num_at_once(self) -> int:
        """Requests of `num_tokens` that fit at once."""
        return self.memory.max_sequences(self.num_tokens)

    @property
    def fits(self) -> bool:
        """What was asked for."""
        return self.num_at_once >= self.num_parallel

    @property
    def ram_bytes(self) -> int:
        """Of the worker, at its largest."""
        return self.memory.ram_bytes


def make_plan(wish: PlanWish) -> ModelPlan:
    """Reads headers; blocks for up to two or three seconds where speed has to be measured.

    Raises ConfigError, UnsupportedModelError, WeightsError, in one line, for what cannot be planned at all.
    """
    options = _with_cold_directory(_without_file_name(wish.model))
    entry = load_registry(options).models[0]
    own_config = read_model_config(entry.path)
    source, has_weights = _weights(entry.path, own_config)
    num_tokens = _num_tokens(wish, entry, own_config)
    config, engine = _resolved(entry, own_config, wish)
    weighed = quantized_weights(source, engine.quantization)
    sizes = weight_sizes(config, weighed)
    entry = _with_budgets(entry, config, engine, sizes.num_bytes, num_tokens, wish)
    config, engine = _resolved(entry, own_config, wish)
    memory = MemoryPlan.of(config, engine, sizes.num_bytes)
    num_parallel = wish.parallel or 1
    is_asked = wish.context is not None or wish.parallel is not None
    is_missing = is_asked and memory.max_sequences(num_tokens) < num_parallel
    estimate = _estimate(config, engine, weighed, sizes, memory, wish) if wish.measures_speed else None
    return ModelPlan(
        entry=entry,
        model_config=config,
        engine_config=engine,
        has_weights=has_weights,
        weights=sizes,
        memory=memory,
        num_tokens=num_tokens,
        num_parallel=num_parallel if is_asked else min(1, memory.max_sequences(num_tokens)),
        available_ram_bytes=psutil.virtual_memory().available,
        needed_ram_mb=_needed_ram_mb(config, engine, sizes.num_bytes, num_tokens, num_parallel) if is_missing else None,
        needed_ssd_mb=_needed_ssd_mb(config, engine, num_tokens, num_parallel) if is_missing else None,
        speeds=() if estimate is None else tuple(_speeds(estimate, min(num_tokens, memory.max_sequence_tokens))),
        prompt_seconds=None
        if estimate is None
        else _prompt_seconds(estimate, min(num_tokens, memory.max_sequence_tokens)),
    )


# ---- The model ---------------------------------------------------------------------------------------------------


def _without_file_name(options: ModelOptions) -> ModelOptions:
    """A `config.json` stands for its directory."""
    path = Path(options.model or "")
    if path.suffix.lower() == ".json" and path.is_file():
        if path.name != "config.json":
            raise ConfigError(f"{path}: a model's configuration is a file with the name config.json")
        return replace(options, model=str(path.absolute().parent))
    return options


def _with_cold_directory(options: ModelOptions) -> ModelOptions:
    """Where nobody says where, the entry names a directory beside whoever asks."""
    if options.max_ssd_mb and options.ssd_path is None:
        return replace(options, ssd_path=DEFAULT_COLD_DIRECTORY)
    return options


def _weights(path: Path, config: ModelConfig) -> tuple[SizedWeightSource, bool]:
    """Their headers, or what the configuration claims where there are none."""
    if find_gguf(path) is None and not any(path.glob("*.safetensors*")):
        return claimed_weights(config), False
    return open_weights(path), True


def _num_tokens(wish: PlanWish, entry: ModelEntry, config: ModelConfig) -> int:
    window = entry.max_position_embeddings or config.max_position_embeddings
    if wish.context is not None and wish.context > window:
        raise ConfigError(
            f"--ctx {wish.context}: the context window of {entry.id} is {window} tokens, "
            f"{wish.context - window} less than that"
        )
    return wish.context or window


def _resolved(entry: ModelEntry, own_config: ModelConfig, wish: PlanWish) -> tuple[ModelConfig, EngineConfig]:
    config, engine = resolve(entry, own_config, num_threads=num_threads(wish.model))
    if wish.parallel is not None and wish.parallel > engine.max_num_seqs:
        engine = replace(engine, max_num_seqs=wish.parallel)
    return config, engine


# ---- Budgets -----------------------------------------------------------------------------------------------------


def _with_budgets(
    entry: ModelEntry, config: ModelConfig, engine: EngineConfig, weights_bytes: int, num_tokens: int, wish: PlanWish
) -> ModelEntry:
    """The entry with a budget of KV: what `--ram` leaves for it, or else what is usual, or more where more is asked
    for."""
    if wish.ram_mb is not None:
        rest = wish.ram_mb * MIB - weights_bytes - workspace_bytes(config, engine)
        if rest < MIB:
            needed = _needed_ram_mb(config, engine, weights_bytes, num_tokens, wish.parallel or 1)
            raise ConfigError(_too_little_ram(wish.ram_mb, weights_bytes, workspace_bytes(config, engine), needed))
        return _with_tiers(entry, max_ram_mb=wish.ram_mb, kv_cache_ram_mb=rest // MIB)
    if wish.context is None and wish.parallel is None:
        return entry
    if entry.tier_config.kv_cache_ram_mb is None:
        least = least_kv_ram_mb(config, engine, num_tokens, wish.parallel or 1)
        if least is not None and least * MIB > engine.kv_cache_ram_bytes:
            return _with_tiers(entry, kv_cache_ram_mb=least)
    return entry


def _with_tiers(entry: ModelEntry, **tiers: int) -> ModelEntry:
    kept = entry.model_dump(exclude_unset=True, exclude={"path"})
    own = entry.tier_config.model_dump(exclude_unset=True)
    return ModelEntry.for_path(entry.path, **{**kept, "tier_config": {**own, **tiers}})


def _too_little_ram(ram_mb: int, weights_bytes: int, workspace: int, needed_mb: int | None) -> str:
    parts = f"{_mib(weights_bytes)} MiB of weights and {_mib(workspace)} MiB of workspace leave no room for KV"
    advice = "" if needed_mb is None else f"; --ram {needed_mb}MiB is the least, {needed_mb - ram_mb} MiB more"
    return f"--ram {ram_mb}MiB: {parts}{advice}"


def _needed_ram_mb(
    config: ModelConfig, engine: EngineConfig, weights_bytes: int, num_tokens: int, num_parallel: int
) -> int | None:
    least = least_kv_ram_mb(config, engine, num_tokens, num_parallel)
    if least is None:
        return None
    return least + _mib(weights_bytes + workspace_bytes(config, engine))


def _needed_ssd_mb(config: ModelConfig, engine: EngineConfig, num_tokens: int, num_parallel: int) -> int | None:
    """Also where there is no cold tier yet."""
    with_place = replace(engine, ssd_path=engine.ssd_path or DEFAULT_COLD_DIRECTORY)
    return least_ssd_mb(config, with_place, num_tokens, num_parallel)


def _mib(num_bytes: int) -> int:
    return -(-num_bytes // MIB)


# ---- Speed -------------------------------------------------------------------------------------------------------


def _estimate(
    config: ModelConfig,
    engine: EngineConfig,
    source: SizedWeightSource,
    sizes: WeightSizes,
    memory: MemoryPlan,
    wish: PlanWish,
) -> SpeedEstimate:
    machine = MeasuredMachine(
        engine.num_threads,
        directory=engine.ssd_path or Path(),
        remembered_in=cache_file(),
        measures_again=wish.measures_again,
    )
    return SpeedEstimate(config, engine, source, sizes.matrices, memory.budget, machine)


def _speeds(estimate: SpeedEstimate, longest: int) -> list[SpeedRow]:
    depths = [*(depth for depth in _DEPTHS if depth < longest), longest]
    return [
        SpeedRow(depth, 1 / estimate.decode_seconds(depth), _PROMPT / estimate.prefill_seconds(depth, _PROMPT))
        for depth in depths
    ]


def _prompt_seconds(estimate: SpeedEstimate, num_tokens: int) -> float:
    """Chunk by chunk; of many, some stand for all."""
    part = max(_PROMPT, -(-num_tokens // 16))
    return sum(
        estimate.prefill_seconds(start, min(part, num_tokens - start)) for start in range(0, max(1, num_tokens), part)
    )
