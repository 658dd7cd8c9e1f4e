"""`PoolingConfig`: how a model's own files make one vector of a text. Knows the files' keys, not what computes them.

A directory says it in the way of sentence-transformers: `modules.json` lists what a text goes through, a module
`Pooling` has its own `config.json`. GGUF says it by `{architecture}.pooling_type`. A model that says nothing gives the
hidden state of the last token, normalised, as vLLM has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from transom.config.gguf_model import GgufModel
from transom.config.json_file import read_json_list
from transom.config.settings import Settings
from transom.errors import ConfigError
from transom.request import Pooling

__all__ = ["PoolingConfig"]

_MODULES_FILE = "modules.json"
_POOLING_MODES: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}
_OTHER_MODES = (
    "pooling_mode_cls_token",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
)
_MODE_NAMES: Mapping[str, Pooling | None] = {"mean": Pooling.MEAN, "lasttoken": Pooling.LAST}
_GGUF_TYPES: Mapping[int, Pooling] = {0: Pooling.LAST, 1: Pooling.MEAN, 3: Pooling.LAST}
_GGUF_NAMES = {2: "cls", 4: "rank"}


@dataclass(frozen=True, slots=True)
class PoolingConfig:
    """From hidden states to a vector."""

    pooling: Pooling = Pooling.LAST
    normalizes: bool = True
    """Vectors are given the length 1."""
    unsupported: str | None = None
    """What the files ask for and is not implemented: then there are no vectors."""

    @classmethod
    def from_hf(cls, directory: Path) -> PoolingConfig:
        """Reads `modules.json` and what it names. Raises ConfigError naming file, key and rule."""
        path = directory / _MODULES_FILE
        if not path.exists():
            return cls()
        modules = [_module(path, each) for each in read_json_list(path)]
        kinds = [kind for kind, _ in modules]
        if others := sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"}):
            return cls(unsupported=f"{path.name} names the module {others[0][:64]!r}")
        config = replace(cls(), normalizes="Normalize" in kinds)
        for kind, place in modules:
            if kind == "Pooling":
                config = _read_pooling(directory, place, config)
        return config

    @classmethod
    def from_gguf(cls, model: GgufModel) -> PoolingConfig:
        """Reads `pooling_type`. Raises ConfigError."""
        number = model.architecture.integer("pooling_type", 0, low=0, high=2**31 - 1)
        if number in _GGUF_TYPES:
            return cls(_GGUF_TYPES[number])
        return cls(unsupported=f"its pooling_type is {_GGUF_NAMES.get(number, number)}")

    def chosen(self, pooling: str | None) -> PoolingConfig:
        """With an operator's choice in place of the files'."""
        return self if pooling is None else PoolingConfig(Pooling(pooling), self.normalizes)


def _module(path: Path, value: object) -> tuple[str, str]:
    """Kind and directory of an entry of `modules.json`."""
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a list of objects")
    settings = Settings(str(path), value)
    return settings.text("type").rpartition(".")[2], settings.text("path", "")


def _read_pooling(directory: Path, place: str, config: PoolingConfig) -> PoolingConfig:
    """The module's own file, which must lie below the model's directory."""
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise ConfigError(f"{directory / _MODULES_FILE}: path is {place[:64]!r}, must lie in the model's directory")
    settings = Settings.of_file(directory / place / "config.json")
    if settings.has("pooling_mode"):
        return _named_mode(settings, config)
    modes = [mode for mode in (*_POOLING_MODES, *_OTHER_MODES) if settings.boolean(mode, False)]
    if len(modes) == 1 and modes[0] in _POOLING_MODES:
        return replace(config, pooling=_POOLING_MODES[modes[0]])
    return replace(config, unsupported=f"{place}/config.json asks for {' and '.join(modes) or 'no pooling'}")


def _named_mode(settings: Settings, config: PoolingConfig) -> PoolingConfig:
    """The newer spelling: one key with a name."""
    name = settings.text("pooling_mode")
    pooling = _MODE_NAMES.get(name)
    if pooling is None:
        return replace(config, unsupported=f"its pooling_mode is {name[:64]!r}")
    return replace(config, pooling=pooling)
