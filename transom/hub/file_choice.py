"""Which files of a hub's model are fetched: safetensors with their JSON, or one GGUF model. Pure.

Pickles, code and whatever else lies beside them never are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transom.errors import HubError
from transom.hub.model_reference import ModelReference, is_plain_path
from transom.hub.model_store import name_from

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SIDE_FILE = re.compile(r"[^/]+\.json|tokenizer\.model|[^/]+\.jinja|\d_\w+/config\.json")
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_QUANTIZATION = re.compile(r"[-_.](?P<name>(?:ud-)?(?:i?q\d\w*|tq\d\w*|mxfp4\w*|b?f16|f32))$", re.IGNORECASE)
_NO_MODEL = ("mmproj", "imatrix")
_DEFAULT_QUANTIZATION = "Q4_K_M"
_MAX_SIDE_BYTES = 64 * 2**20
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a hub's model, as the hub describes it."""

    path: str
    size: int
    sha256: str | None = None
    """Of large files."""
    git_sha1: str | None = None
    """Of all others: that of git's blob."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is fetched, and the name it gets unless somebody says another."""

    name: str
    files: tuple[tuple[HubFile, str], ...]
    """Each with its place in the model's directory."""

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file, _ in self.files)


def choose_files(reference: ModelReference, files: Sequence[HubFile]) -> Choice:
    """Raises `HubError`: there is no model of a kind that is served, or it is not clear which is meant."""
    usable = [file for file in files if is_plain_path(file.path)]
    models = _gguf_models(usable)
    if reference.file is not None:
        return _gguf_choice(_named(reference, models))
    if reference.quantization is not None:
        return _gguf_choice(_quantized(reference, reference.quantization, models))
    paths = {file.path for file in usable}
    if "config.json" in paths and paths & {_SINGLE, _INDEX}:
        return _safetensors_choice(reference, usable)
    if not models:
        raise HubError(f"{reference} holds neither safetensors nor GGUF files{_what_instead(usable)}")
    if len(models) == 1:
        return _gguf_choice(models[0])
    return _gguf_choice(_quantized(reference, _DEFAULT_QUANTIZATION, models))


@dataclass(frozen=True, slots=True)
class _GgufModel:
    """A GGUF file, or all parts of a split one."""

    stem: str
    files: tuple[HubFile, ...]

    @property
    def quantization(self) -> str | None:
        match = _QUANTIZATION.search(self.stem)
        return None if match is None else match["name"].upper()


def _gguf_models(files: Iterable[HubFile]) -> list[_GgufModel]:
    """Whole ones: of a split model all parts must be there."""
    models: dict[str, list[HubFile]] = {}
    for file in files:
        if file.path.lower().endswith(".gguf") and not any(word in file.path.lower() for word in _NO_MODEL):
            stem = file.path[: -len(".gguf")]
            part = _PART.fullmatch(stem)
            models.setdefault(stem if part is None else part["stem"], []).append(file)
    return [_GgufModel(stem, tuple(parts)) for stem, parts in sorted(models.items()) if _is_whole(parts)]


def _is_whole(parts: Sequence[HubFile]) -> bool:
    counts = [_PART.fullmatch(file.path[: -len(".gguf")]) for file in parts]
    return all(match is None or int(match["count"]) == len(parts) for match in counts)


def _named(reference: ModelReference, models: Sequence[_GgufModel]) -> _GgufModel:
    for model in models:
        if reference.file in {file.path for file in model.files}:
            return model
    raise HubError(f"{reference.repository} has no GGUF file {reference.file}{_offered(models)}")


def _quantized(reference: ModelReference, quantization: str, models: Sequence[_GgufModel]) -> _GgufModel:
    wanted = quantization.upper()
    found = [model for model in models if model.quantization == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(model.files[0].path for model in found[:_SHOWN])
        raise HubError(f"{reference} may be one of several files: {names}; name one, as OWNER/NAME/FILE.gguf")
    missing = "" if reference.quantization is None else f"{reference.repository} has no GGUF file of type {wanted}"
    raise HubError(f"{missing or f'{reference} holds several GGUF models'}{_offered(models)}")


def _offered(models: Sequence[_GgufModel]) -> str:
    names = [f":{model.quantization}" if model.quantization else f"/{model.files[0].path}" for model in models]
    more = ", ..." if len(names) > _SHOWN else ""
    return f"; there are {', '.join(names[:_SHOWN])}{more}" if names else "; it holds no GGUF files"


def _gguf_choice(model: _GgufModel) -> Choice:
    named = tuple((file, file.path.rpartition("/")[2]) for file in model.files)
    return Choice(name_from(model.stem.rpartition("/")[2]), named)


def _safetensors_choice(reference: ModelReference, files: Sequence[HubFile]) -> Choice:
    is_single = any(file.path == _SINGLE for file in files)
    chosen = [file for file in files if _belongs(file.path, is_single=is_single)]
    for file in chosen:
        if not file.path.endswith(".safetensors") and file.size > _MAX_SIDE_BYTES:
            raise HubError(f"{reference}: {file.path} has {file.size} bytes, more than any file beside weights needs")
    return Choice(name_from(reference.repository.partition("/")[2]), tuple((file, file.path) for file in chosen))


def _belongs(path: str, *, is_single: bool) -> bool:
    """Weights in one file win over those in several, as they do where they are read."""
    if path.endswith(".safetensors"):
        return path == _SINGLE if is_single else _SHARD.fullmatch(path) is not None
    return _SIDE_FILE.fullmatch(path) is not None and not (is_single and path == _INDEX)


def _what_instead(files: Iterable[HubFile]) -> str:
    pickle = next((file.path for file in files if file.path.endswith((".bin", ".pt", ".pth"))), None)
    return "" if pickle is None else f"; {pickle} is a pickle, which is never loaded"
