"""A tiny model of every family, without torch: the files of tests/golden, and checkpoints made from them.

A file holds a family's `config.json`, the names and shapes of its tensors as transformers saves them, and the logits
that transformers computes. Weights and tokens are drawn from a seed: from the raw words of a bit generator, whose
stream NumPy promises never to change. `scripts.write_golden_logits` writes the files.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

DIRECTORY = Path(__file__).parent / "golden"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """One family's model and what it says."""

    seed: int
    num_tokens: int
    config: dict[str, Any]
    tensors: dict[str, list[int]]
    logits: dict[str, list[float]]
    """By position in the sequence of `tokens`."""

    @property
    def tokens(self) -> list[int]:
        """The sequence that was computed."""
        drawn: list[int] = (_words(self.seed, "tokens", self.num_tokens) % self.config["vocab_size"]).tolist()
        return drawn

    @property
    def positions(self) -> list[int]:
        """Those whose logits are known."""
        return [int(position) for position in self.logits]

    @property
    def expected(self) -> Floats:
        """[positions, vocab_size]."""
        return np.array(list(self.logits.values()), np.float32)


def families() -> list[str]:
    """Every `model_type` that has a file."""
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))


def read_golden(model_type: str) -> Golden:
    return Golden(**json.loads((DIRECTORY / f"{model_type}.json").read_text(encoding="utf-8")))


def write_golden(model_type: str, golden: Golden) -> None:
    """One line for each setting, tensor and position."""
    fields = [f'"{name}": {_lines(value)}' for name, value in asdict(golden).items()]
    text = "{\n" + ",\n".join(fields) + "\n}\n"
    (DIRECTORY / f"{model_type}.json").write_text(text, encoding="utf-8")


def write_golden_model(model_type: str, directory: Path, **changes: Any) -> Path:
    """The family's model as a Hugging Face directory; `changes` are to its `config.json`, those of shapes excepted."""
    golden = read_golden(model_type)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**golden.config, **changes}))
    save_file(random_tensors(golden.tensors, golden.seed), directory / "model.safetensors")
    return directory


def random_tensors(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Floats]:
    """Weights and biases from -0.5 to 0.5, norms from 0.5 to 1.5; each follows from the seed and its name alone."""
    return {name: _uniform(seed, name, tuple(shape)) for name, shape in shapes.items()}


def _uniform(seed: int, name: str, shape: tuple[int, ...]) -> Floats:
    centre = 1.0 if "norm" in name else 0.0
    words = _words(seed, name, int(np.prod(shape)))
    values: Floats = (words / 2.0**32 - 0.5 + centre).astype(np.float32).reshape(shape)
    return values


def _words(seed: int, name: str, count: int) -> NDArray[np.int64]:
    """Numbers of 32 bits."""
    raw = np.asarray(np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw(count))
    return (raw >> np.uint64(32)).astype(np.int64)


def _lines(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    items = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    return "{\n" + ",\n".join(items) + "\n}"
