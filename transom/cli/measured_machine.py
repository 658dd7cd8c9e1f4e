"""What this machine was measured to do, remembered in the user's cache directory from one command to the next.

Each figure is measured when it is first asked for. Another processor, instruction set, number of threads or version is
another machine. A file that cannot be read or written is only slower: everything is measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

from transom import kernels
from transom.config.model_config import ModelConfig
from transom.engine.disk_speed import measure_disk, nearest_directory
from transom.engine.layer_speed import LayerSpeed, measure_layers
from transom.engine.machine_speed import (
    AttentionSpeed,
    MatrixSpeed,
    last_cache_bytes,
    measure_attention,
    measure_matrix,
    measure_memory,
)
from transom.engine.step_speed import StepSpeed, measure_steps
from transom.weights.loader import WeightSource

__all__ = ["MeasuredMachine", "cache_file", "processor_name"]

_DISK_FILE_BYTES = 96 * 2**20
_DISK_SECONDS = 0.25
_MOST_IN_FLIGHT = 2**25
_LAYER_CACHES = 2
"""Layers are tried that take so many times the last cache."""
_FEW_TOKENS = 256
_NOT_TRIED = LayerSpeed(0.0, 0.0)
"""Of layers that are too large."""

Rates = TypeVar("Rates", MatrixSpeed, AttentionSpeed, LayerSpeed, StepSpeed)


def cache_file() -> Path:
    """Where figures are remembered, as the XDG base directory specification has it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    directory = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return directory / "transom" / "machine-speed.json"


def processor_name() -> str:
    """As the system calls it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown processor"


@dataclass(slots=True)
class MeasuredMachine:
    """Rates of this machine, for one number of threads; a `MachineSpeed`. Blocks for tenths of a second per figure."""

    num_threads: int
    directory: Path = field(default_factory=Path)
    """Whose disk is meant."""
    remembered_in: Path | None = None
    """None: nothing is remembered."""
    measures_again: bool = False
    """What was remembered before is not believed."""
    figures: dict[str, Any] = field(default_factory=dict, init=False)
    """What was asked for so far, by name."""

    def __post_init__(self) -> None:
        kernels.set_num_threads(self.num_threads)
        if not self.measures_again:
            self.figures = self._read()

    @property
    def last_cache_bytes(self) -> int:
        """As the system tells it."""
        return last_cache_bytes()

    def memory_bytes_per_second(self) -> float:
        """At which all threads read memory."""
        return self._rate("memory", measure_memory)

    def matrix(self, dtype: str) -> MatrixSpeed:
        """Of weights of one type."""
        return self._rates(MatrixSpeed, f"matrix {dtype}", lambda: measure_matrix(cast(Any, dtype)))

    def attention(
        self, num_attention_heads: int, num_key_value_heads: int, head_dim: int, kv_dtype: str
    ) -> AttentionSpeed:
        """Over keys and values of one shape and type."""
        shape = (num_attention_heads, num_key_value_heads, head_dim)
        name = f"attention {shape[0]}/{shape[1]}/{shape[2]} {kv_dtype}"
        return self._rates(AttentionSpeed, name, lambda: measure_attention(*shape, cast(Any, kv_dtype)))

    def steps(self, vocab_size: int) -> StepSpeed:
        """What every step takes, with a choice among so many tokens."""
        return self._rates(StepSpeed, f"steps {vocab_size}", lambda: measure_steps(self.num_threads, vocab_size))

    def layers(self, model_config: ModelConfig, source: WeightSource) -> LayerSpeed | None:
        """What some layers of this model reach; None where they are too large to try."""

        def measure() -> LayerSpeed:
            speed = measure_layers(
                model_config,
                source,
                num_threads=self.num_threads,
                least_bytes=_LAYER_CACHES * last_cache_bytes(),
                step_seconds=self.steps(_FEW_TOKENS).step_seconds,
            )
            return speed or _NOT_TRIED

        speed = self._rates(LayerSpeed, f"layers {_digest(model_config, source)}", measure)
        return None if speed == _NOT_TRIED else speed

    def disk_bytes_per_second(self, piece_bytes: int, in_flight_bytes: int) -> float:
        """Read in pieces of this size, of which so many bytes are under way. OSError, ConfigError."""
        device = nearest_directory(self.directory).stat().st_dev
        in_flight = min(_MOST_IN_FLIGHT, 1 << (in_flight_bytes.bit_length() - 1))  # like ones share a measurement

        def measure() -> float:
            speed = measure_disk(
                self.directory,
                (piece_bytes,),
                num_bytes=_DISK_FILE_BYTES,
                seconds=_DISK_SECONDS,
                in_flight_bytes=in_flight,
            )
            return speed.read_bytes_per_second

        return self._rate(f"disk {device} {piece_bytes} {in_flight}", measure)

    def _rates(self, kind: type[Rates], name: str, measure: Callable[[], Rates]) -> Rates:
        """Several figures under one name; what is remembered in another shape is measured anew."""
        remembered = self.figures.get(name)
        if isinstance(remembered, dict) and remembered.keys() == {each.name for each in fields(kind)}:
            return kind(**remembered)
        rates = measure()
        self._note(name, asdict(rates))
        return rates

    def _rate(self, name: str, measure: Callable[[], float]) -> float:
        remembered = self.figures.get(name)
        if isinstance(remembered, int | float) and remembered > 0:
            return float(remembered)
        rate = measure()
        self._note(name, rate)
        return rate

    def _note(self, name: str, figure: object) -> None:
        self.figures[name] = figure
        self._write()

    @property
    def _machine(self) -> list[str | int]:
        return [processor_name(), kernels.active_isa(), self.num_threads, version("transom")]

    def _read(self) -> dict[str, Any]:
        if self.remembered_in is None:
            return {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            content = json.loads(self.remembered_in.read_bytes())
            figures = content["figures"]
            if content["machine"] == self._machine and all(map(_is_figure, figures.values())):
                return dict(figures)
        return {}

    def _write(self) -> None:
        if self.remembered_in is None:
            return
        content = json.dumps({"machine": self._machine, "figures": self.figures}, indent=2)
        temporary = self.remembered_in.with_name(f"{self.remembered_in.name}.{os.getpid()}")
        with suppress(OSError):
            self.remembered_in.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(self.remembered_in)


def _digest(model_config: ModelConfig, source: WeightSource) -> str:
    """Of everything that a model's speed depends on."""
    headers = [(name, source.info(name).dtype, source.info(name).shape) for name in sorted(source.names())]
    return hashlib.sha256(repr((model_config, headers)).encode()).hexdigest()[:16]


def _is_figure(value: object) -> bool:
    """A positive number, or several by name."""
    numbers = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(each, int | float) and each >= 0 for each in numbers)
