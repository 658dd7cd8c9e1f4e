"""What `transom convert` will write: metadata and tensors of a Hugging Face directory, or of another GGUF file.

Reads headers and small files only; tensors are read when they are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.config.gguf_metadata import gguf_metadata
from transom.config.model_config import GenerationDefaults, ModelConfig
from transom.config.rope_config import RopeConfig
from transom.errors import WeightsError
from transom.layers.rotary import frequency_factors
from transom.models import misfits
from transom.tokenizer.gguf_export import export_tokenizer
from transom.weights.ggml_types import FILE_TYPES
from transom.weights.gguf import GgufFile, open_gguf
from transom.weights.gguf_form import GgufForm
from transom.weights.gguf_names import NAMINGS, GgufNaming
from transom.weights.gguf_values import GgufValue
from transom.weights.gguf_writer import PlannedTensor
from transom.weights.loader import WeightSource
from transom.weights.quantization import TensorTypes, converted
from transom.weights.safetensors import open_checkpoint
from transom.weights.tensor_info import TensorInfo

__all__ = ["GgufPlan", "plan_from_directory", "plan_from_gguf"]

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_QUANTIZATION_VERSION = 2  # of ggml's blocks
_OF_THE_FILE = ("general.file_type", "general.quantization_version", "general.alignment")
"""Keys that say how a file is made; they are not copied from one to the next."""
_FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()} | {"Q4_K": 14}  # Q4_K alone: Q4_K_S
_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class GgufPlan:
    """A file that can be written."""

    metadata: Mapping[str, GgufValue]
    tensors: tuple[PlannedTensor, ...]
    notes: tuple[str, ...]
    """What the user should know: a line each."""


def plan_from_directory(directory: Path, recipe: str) -> GgufPlan:
    """A Hugging Face directory as a GGUF file. Raises the errors of whatever cannot be read or expressed."""
    config = ModelConfig.from_hf(directory)
    architecture = gguf_metadata(config, GenerationDefaults.from_hf(directory))
    naming = NAMINGS[str(architecture["general.architecture"])]
    tokenizer = export_tokenizer(
        directory,
        num_tokens=config.vocab_size,
        bos_token_id=config.bos_token_id,
        end_token_ids=config.eos_token_ids,
    )
    source = _checked_form(open_checkpoint(directory), naming, config)
    names = _tensors_of(source, config)
    types = TensorTypes.of(recipe, names)
    tensors = [_planned(source, name, naming.in_file(name) or name, types) for name in names]
    tensors += [_vector(name, values) for name, values in _rope_factors(config.rope).items()]
    metadata = {**architecture, "general.name": directory.resolve().name, **tokenizer.metadata, **_file_keys(recipe)}
    return GgufPlan(metadata, tuple(tensors), (*tokenizer.notes, *_fallback_notes(source, names, types)))


def plan_from_gguf(path: Path, recipe: str) -> GgufPlan:
    """Another GGUF file of the same model, with other tensor types. Raises WeightsError."""
    file = open_gguf(path)
    if not file.names():
        raise WeightsError(f"{path}: holds no weights, only a vocabulary and other metadata")
    naming = NAMINGS.get(str(file.metadata.get("general.architecture")), GgufNaming())
    names = {name: naming.hugging_face(name) or name for name in file.names()}
    types = TensorTypes.of(recipe, names.values())
    kept = {key: file.metadata[key] for key in file.metadata if not key.startswith("split.")}
    metadata = {key: value for key, value in kept.items() if key not in _OF_THE_FILE} | _file_keys(recipe)
    source = _Renamed(file, {hugging_face: name for name, hugging_face in names.items()})
    tensors = tuple(_planned(source, hugging_face, name, types) for name, hugging_face in names.items())
    return GgufPlan(metadata, tensors, _fallback_notes(source, names.values(), types))


def _planned(source: WeightSource, name: str, name_in_file: str, types: TensorTypes) -> PlannedTensor:
    shape = source.info(name).shape
    dtype = types.of_tensor(name, shape)
    return PlannedTensor(name_in_file, dtype, shape, partial(converted, source, name, dtype))


def _file_keys(recipe: str) -> dict[str, GgufValue]:
    keys: dict[str, GgufValue] = {"general.file_type": _FILE_TYPE_NUMBERS[recipe]}
    return keys if recipe in ("F32", "F16", "BF16") else keys | {"general.quantization_version": _QUANTIZATION_VERSION}


def _fallback_notes(source: WeightSource, names: Iterable[str], types: TensorTypes) -> tuple[str, ...]:
    """One line for each type that tensors got because their rows are no whole blocks of the recipe's."""
    by_type: dict[str, list[str]] = {}
    for name in names:
        shape = source.info(name).shape
        if types.gave_way(name, shape):
            by_type.setdefault(types.of_tensor(name, shape), []).append(name)
    return tuple(
        f"{len(listed)} matrices become {dtype}: their rows are no whole blocks of the type that was asked for "
        f"({', '.join(listed[:_NAMES_SHOWN])}{', ...' if len(listed) > _NAMES_SHOWN else ''})"
        for dtype, listed in by_type.items()
    )


# ---- tensors of a Hugging Face directory


def _checked_form(checkpoint: WeightSource, naming: GgufNaming, config: ModelConfig) -> GgufForm:
    """Raises WeightsError when the checkpoint is not of this model, which is what the model itself says of it."""
    if problems := misfits(config, checkpoint):
        raise WeightsError(problems[0])
    num_heads = {"query": config.num_attention_heads, "key": config.num_key_value_heads}
    return GgufForm(checkpoint, naming, num_heads, is_tied=config.tie_word_embeddings)


def _tensors_of(source: WeightSource, config: ModelConfig) -> list[str]:
    """In the order of the file: without old rotary buffers, and without a head that is a copy of the embedding."""
    names = [name for name in source.names() if not name.endswith(".rotary_emb.inv_freq")]
    if config.tie_word_embeddings and _HEAD in names and _are_equal(source, _EMBEDDING, _HEAD):
        names.remove(_HEAD)
    return names


def _rope_factors(rope: RopeConfig) -> dict[str, NDArray[np.float32]]:
    """Tensors that stand for keys which the format lacks."""
    factors = frequency_factors(rope)
    tensors = {} if factors is None else {"rope_freqs.weight": factors}
    if rope.rope_type == "longrope":
        tensors["rope_factors_long.weight"] = np.array(rope.long_factor, np.float32)
        tensors["rope_factors_short.weight"] = np.array(rope.short_factor, np.float32)
    return tensors


def _vector(name: str, values: NDArray[np.float32]) -> PlannedTensor:
    return PlannedTensor(name, "F32", values.shape, lambda: iter((values,)))


def _are_equal(source: WeightSource, first: str, second: str) -> bool:
    mine, other = source.info(first), source.info(second)
    return (mine.dtype, mine.shape) == (other.dtype, other.shape) and all(
        np.array_equal(a, b)
        for a, b in zip(converted(source, first, mine.dtype), converted(source, second, other.dtype), strict=True)
    )


class _Renamed:
    """A GGUF file under Hugging Face's names, by which recipes know tensors; rows stay as they lie."""

    def __init__(self, file: GgufFile, in_file: Mapping[str, str]) -> None:
        self._file = file
        self._in_file = in_file

    def names(self) -> tuple[str, ...]:
        return tuple(self._in_file)

    def info(self, name: str) -> TensorInfo:
        return self._file.info(self._in_file[name])

    def tensor(self, name: str) -> NDArray[Any]:
        return self._file.tensor(self._in_file[name])

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return self._file.tensor(self._in_file[name])[begin:end]

    def release(self, name: str) -> None:
        self._file.release(self._in_file[name])
