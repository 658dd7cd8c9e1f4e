"""From the command line's words to registry entries: a directory or GGUF file, a bundled model, or a registry file."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import transom
from transom.cli.options import ModelOptions
from transom.cli.user_directories import models_directory
from transom.config.engine_config import EngineConfig
from transom.config.json_file import read_json_object
from transom.config.registry_config import ModelEntry, RegistryConfig, ServerConfig
from transom.config.total_budgets import check_total_ssd
from transom.errors import ConfigError
from transom.hub.model_store import ModelStore
from transom.weights.gguf import is_gguf

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def bundled_registry() -> Path:
    """The registry file of the models that come with the program."""
    return Path(transom.__file__).parent / "models_builtin" / "config.json"


def load_registry(options: ModelOptions) -> RegistryConfig:
    """The registry that the options ask for, their changes applied to every entry. Raises `ConfigError`."""
    if options.config is not None:
        if options.model is not None:
            raise ConfigError("a model and --config are given; only one of them can be served")
        registry = _registry_file(options.config)
    else:
        registry = _registry_of(options.model)
    entries = tuple(_changed(entry, options) for entry in registry.models)
    _check_cold_tier(entries, options)
    check_total_ssd(entries, registry.server.max_total_ssd_mb)
    return registry.model_copy(update={"models": _renamed(entries, options.served_model_name)})


def bundled_names() -> frozenset[str]:
    """Of all bundled models: their ids and aliases."""
    entries = RegistryConfig.load(bundled_registry()).models
    return frozenset(name for entry in entries for name in (entry.id, *entry.aliases))


def pulled_entry(name: str) -> ModelEntry | None:
    """A model that `transom pull` has fetched; None where there is none of this name."""
    path = ModelStore(models_directory()).find(name)
    return None if path is None else ModelEntry.for_path(path, id=name)


def pulled_entries() -> tuple[ModelEntry, ...]:
    """All models that `transom pull` has fetched."""
    found = (pulled_entry(name) for name in ModelStore(models_directory()).names())
    return tuple(entry for entry in found if entry is not None)


def server_url(config: Path | None) -> str:
    """Where the server of a registry file listens, as seen from this machine; None: where one does by default."""
    server = ServerConfig() if config is None else RegistryConfig.load(config).server
    host = _LOOPBACK.get(server.host, server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port or ServerConfig().port}"


def num_threads(options: ModelOptions) -> int:
    """Threads per model: as given, or the cores this process may use."""
    return options.threads or len(os.sched_getaffinity(0))


def adjust_limits(options: ModelOptions, config: EngineConfig) -> EngineConfig:
    """The limits that no registry key holds."""
    return replace(
        config,
        max_num_seqs=options.max_num_seqs or config.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens or config.max_num_batched_tokens,
    )


def _registry_of(model: str | None) -> RegistryConfig:
    """A model's directory comes before a bundled model, and that before some directory that has its name by chance."""
    bundled = RegistryConfig.load(bundled_registry())
    if model is None:
        return bundled
    entries = tuple(entry for entry in bundled.models if model in (entry.id, *entry.aliases))
    if model and _is_model(Path(model)) and not (entries and _holds_no_model(Path(model))):
        return RegistryConfig(models=(ModelEntry.for_path(Path(model)),))
    if not entries and (pulled := pulled_entry(model)) is not None:
        return RegistryConfig(models=(pulled,))
    if not entries:
        raise ConfigError(f"{model!r} {_why_no_model(model)} (bundled models: {_names(bundled)}{_pulled_names()})")
    return RegistryConfig(models=entries)


def _is_model(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and is_gguf(path))


def _holds_no_model(path: Path) -> bool:
    """A directory that has a bundled model's name by chance, as a directory of cold tiers may."""
    return path.is_dir() and not (path / "config.json").exists()


def _registry_file(path: Path) -> RegistryConfig:
    """A directory, and the `config.json` of a model, are mistaken for a registry file often enough to say so."""
    if path.is_dir():
        raise ConfigError(f"{path} is a directory, not a registry file; serve a model's directory without --config")
    if _describes_a_model(path):
        raise ConfigError(
            f"{path} looks like a model's config.json, not like a registry file; serve its directory: "
            f"transom serve {path.parent}"
        )
    return RegistryConfig.load(path)


def _describes_a_model(path: Path) -> bool:
    keys = read_json_object(path).keys()
    return "models" not in keys and bool(keys & {"model_type", "architectures"})


def _why_no_model(model: str) -> str:
    """Why a name cannot be served: what it looks like, and what to do."""
    path = Path(model)
    if path.suffix.lower() == ".json" and path.is_file():
        return f"is a file; give a model's directory ({path.parent}), or a registry file by --config"
    if path.is_file():
        return "is not a GGUF file; give one, or a model's directory"
    if _HUB_ID.fullmatch(model) and not path.parent.is_dir():
        return f"looks like a model of a hub; `transom pull {model}` fetches it"
    if "/" in model or model.startswith(("~", ".")):
        return "is no such directory or file"
    return "is neither a directory, nor a GGUF file, nor a bundled model, nor a pulled one"


def _pulled_names() -> str:
    names = ModelStore(models_directory()).names()
    return f"; pulled: {', '.join(names)}" if names else ""


def _names(registry: RegistryConfig) -> str:
    return ", ".join(entry.id for entry in registry.models)


def _changed(entry: ModelEntry, options: ModelOptions) -> ModelEntry:
    """The entry with what the options say; checked again as a whole."""
    own = {
        "max_position_embeddings": options.max_model_len,
        "sliding_window": options.sliding_window,
        "quantization": options.quantization and options.quantization.value,
    }
    changes = _given(own)
    if given_tiers := _given(_tier_options(options)):
        changes["tier_config"] = {**entry.tier_config.model_dump(exclude_unset=True), **given_tiers}
    if given_cache := _given(_cache_options(options)):
        changes["cache"] = {**entry.cache.model_dump(exclude_unset=True), **given_cache}
    if options.max_draft_tokens is not None:
        own_words = entry.speculative.model_dump(exclude_unset=True)
        changes["speculative"] = {**own_words, "max_draft_tokens": options.max_draft_tokens}
    if not changes:
        return entry
    kept = entry.model_dump(exclude_unset=True, exclude={"id", "path"})
    return ModelEntry.for_path(entry.path, **{**kept, **changes, "id": entry.id})


def _check_cold_tier(entries: tuple[ModelEntry, ...], options: ModelOptions) -> None:
    """Who names a directory means a cold tier; without a size there would silently be none."""
    if options.ssd_path is None or options.max_ssd_mb is not None:
        return
    if not any(entry.tier_config.max_ssd_mb for entry in entries):
        raise ConfigError(
            f"--ssd-path {options.ssd_path} needs --max-ssd-mb, the size of the cold tier in MiB (0: no cold tier)"
        )


def _tier_options(options: ModelOptions) -> dict[str, Any]:
    return {
        "kv_dtype": options.kv_cache_dtype and options.kv_cache_dtype.value,
        "kv_cache_ram_mb": options.kv_cache_ram_mb,
        "max_ram_mb": options.max_ram_mb,
        "max_ssd_mb": options.max_ssd_mb,
        "ssd_path": options.ssd_path and options.ssd_path.absolute(),
        "hot_tokens": options.hot_tokens,
        "enable_prefix_cache": options.enable_prefix_cache,
    }


def _cache_options(options: ModelOptions) -> dict[str, Any]:
    return {
        "strategy": options.cache_strategy and options.cache_strategy.value,
        "window_size": options.window_size,
        "keep_first": options.keep_first,
    }


def _renamed(entries: tuple[ModelEntry, ...], name: str | None) -> tuple[ModelEntry, ...]:
    """The one entry with a further name, which answers show; several entries cannot share it."""
    if name is None:
        return entries
    if len(entries) > 1:
        raise ConfigError(f"--served-model-name {name} needs one model, but {len(entries)} are served")
    [entry] = entries
    settings = entry.model_dump(exclude_unset=True, exclude={"id", "path"})
    return (ModelEntry.for_path(entry.path, **{**settings, "id": name}),)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
