"""The registry file `config.json`: which models are served, and within which budgets. Strict: nothing is ignored.

Every key that exists is declared here, with its meaning: `docs/configuration.md` is written from this module. Keys
whose feature does not exist yet are checked like all others and then refused by name (`not_supported`), never ignored.
Knows nothing of the models behind the paths: what depends on them is checked by `engine_config.resolve`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from transom.config.json_file import read_json_object
from transom.config.not_supported import OF_AN_ENTRY, all_unsupported
from transom.config.registry_errors import describe
from transom.config.total_budgets import check_total_ssd
from transom.errors import ConfigError

__all__ = [
    "DEFAULT_MAX_WAITING_PER_KEY",
    "DEFAULT_TIER",
    "CacheConfig",
    "ModelEntry",
    "ModelId",
    "RegistryConfig",
    "ResourceQuota",
    "ServerConfig",
    "SpeculativeConfig",
    "TierConfig",
    "first_repeated",
    "model_id_from",
]

DEFAULT_TIER = "default"
"""The quota tier of callers who are given no other; may be absent, which means no limits."""

DEFAULT_MAX_WAITING_PER_KEY = 64

_STATE = "transom-state"
_MAX_ID_CHARACTERS = 128
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}\Z")
_ALIAS = re.compile(r"[!-~]{1,256}\Z")
_MAX_MIB = 2**30  # a pebibyte: beyond it, a size is a slip of the pen
_MAX_TOKENS = 2**31 - 1


def _check_id(value: str) -> str:
    if not _ID.match(value):
        raise ValueError(
            f"must be 1 to {_MAX_ID_CHARACTERS} of a-z 0-9 . _ - and begin with a letter or digit (lower case)"
        )
    return value


def _check_alias(value: str) -> str:
    if not _ALIAS.match(value):
        raise ValueError("must be 1 to 256 printable ASCII characters without spaces")
    return value


def _check_path(value: Path) -> Path:
    if not value.name or "\0" in str(value):
        raise ValueError("must name a file or directory")
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError("must begin with the ~ of a user who has a home directory") from None


ModelId = Annotated[str, AfterValidator(_check_id)]
Alias = Annotated[str, AfterValidator(_check_alias)]
MiB = Annotated[int, Field(ge=1, le=_MAX_MIB)]
Tokens = Annotated[int, Field(ge=1, le=_MAX_TOKENS)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
PathSetting = Annotated[Path, Field(strict=False), AfterValidator(_check_path)]  # JSON has no paths: a string is one


class _Section(BaseModel):
    """Frozen, no unknown keys, no conversions between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class ServerConfig(_Section):
    """Where the HTTP server listens, and what all models share."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9632
    """Port to listen on; 0 takes a free one."""
    api_keys_file: PathSetting | None = None
    """File of API keys, made by `transom keys create`; relative to the registry file. It must be readable by its owner
    alone, and is read again within a second when it changes. null: no key is asked for, but those of `--api-key`."""
    admin_socket: PathSetting | None = None
    """Unix socket for `transom ps`, `load`, `unload`, `drain` and `quota`, with mode 0600; relative to the registry
    file. null: none."""
    max_total_ram_mb: MiB | None = None
    """Cap for the processes of all loaded models together. Each counts its `max_ram_mb` or, without one, its weights,
    KV and workspace. Where a load would break it, models without requests are unloaded, the one that was used longest
    ago first; where that is not enough, requests wait. null: no cap."""
    max_total_ssd_mb: MiB | None = None
    """Cap for the cold tiers of all models together: the sum of their `max_ssd_mb`, and of what models that are no
    longer served have left in the same places, must not exceed it. null: no cap."""
    idle_unload_seconds: Seconds | None = None
    """A model without requests for so long is unloaded; entries may say otherwise. null: never."""
    load_wait_seconds: Seconds = 120.0
    """A request waits so long for its model to be loaded; then it is refused (503)."""
    max_waiting_for_load: Annotated[int, Field(ge=0)] = 256
    """Requests to all models that may wait for a load; more are refused (503)."""
    request_timeout_seconds: Seconds | None = None
    """An answer that is not complete after so long, waiting included, is ended: 408, or an error event in a stream that
    has begun. null: it may take as long as it takes."""
    max_waiting_per_key: Count = DEFAULT_MAX_WAITING_PER_KEY
    """Requests of one API key that may wait for their turn at one model; more are refused (429). Keys are served in
    turn. Where no key is asked for there is no such bound, only that of all."""
    state_path: PathSetting | None = None
    """Directory for what the server must remember across restarts: the use of quotas. Relative to the registry file;
    null: `transom-state` beside it. Made only when there are quotas, and used by one server at a time."""

    def placed_in(self, directory: Path) -> Self:
        """The section with its relative paths taken from `directory`."""
        paths = {
            "api_keys_file": self.api_keys_file,
            "admin_socket": self.admin_socket,
            "state_path": self.state_path or Path(_STATE),
        }
        return self.model_copy(update={key: directory / path for key, path in paths.items() if path is not None})


class TierConfig(_Section):
    """Memory budgets of one model. `_mb` means MiB (2^20 bytes)."""

    max_ram_mb: MiB | None = None
    """Cap for the model's whole process: weights, KV and workspace. null: no cap beyond what these need."""
    kv_cache_ram_mb: MiB | None = None
    """Hard cap for everything KV in RAM, states of short convolutions included. null: room for 4 sequences that
    fill the context window, but no more than 8192 MiB, nor than half of the RAM that is available at start."""
    max_ssd_mb: Annotated[int, Field(ge=0, le=_MAX_MIB)] = 0
    """Cap for the cold tier: physical bytes of everything in the model's directory below `ssd_path`. 0: no cold
    tier."""
    ssd_path: PathSetting | None = None
    """Directory of the cold tier; relative to the registry file. Each model has a directory of its own in it, named by
    its id and used by one server at a time."""
    hot_tokens: Tokens | None = None
    """Tokens of one sequence that may be in RAM at once, at least one block; the others are on SSD. null: as many as
    `kv_cache_ram_mb` holds."""
    enable_prefix_cache: bool = True
    """Keep KV of ended requests while nobody else wants its room, for requests that begin with the same tokens."""
    reuse_ssd_mb: Annotated[int, Field(ge=0, le=_MAX_MIB)] | None = None
    """Cap for what of `max_ssd_mb` such KV may take. null: all that running requests do not need."""
    enable_tiering: bool = True
    """false: no cold tier, whatever `max_ssd_mb` says."""
    enable_distributed: bool = False
    """Spread the model over several machines."""
    kv_dtype: Literal["f32", "f16", "q8_0"] = "f16"
    """Element type of keys and values in the cache."""

    @model_validator(mode="after")
    def _kv_fits_into_ram(self) -> Self:
        if self.max_ram_mb is not None and self.kv_cache_ram_mb is not None and self.kv_cache_ram_mb > self.max_ram_mb:
            raise ValueError(f"kv_cache_ram_mb {self.kv_cache_ram_mb} must be at most max_ram_mb {self.max_ram_mb}")
        return self

    @model_validator(mode="after")
    def _cold_tier_has_a_place(self) -> Self:
        if self.enable_tiering and self.max_ssd_mb > 0 and self.ssd_path is None:
            raise ValueError(f"max_ssd_mb {self.max_ssd_mb} needs ssd_path, the directory of the cold tier")
        return self


class CacheConfig(_Section):
    """What full-attention layers may forget. A request may choose otherwise, by its field `cache` with these keys."""

    strategy: Literal["full", "fifo", "sliding_window", "keep_first", "adaptive"] = "full"
    """`full`: nothing. `sliding_window`: all but the last `window_size` tokens. `keep_first`: all but the first
    `keep_first` and the last `window_size - keep_first` tokens. `fifo`: the oldest block, whenever the budgets hold no
    more of the sequence. `adaptive`: nothing with a cold tier, where what is attended to most stays in RAM; without
    one, the blocks that are attended to least."""
    window_size: Tokens = 1024
    """Tokens that `sliding_window` and `keep_first` attend to; for `fifo`, where it is written, a bound below what the
    budgets hold. At most the context window."""
    keep_first: Annotated[int, Field(ge=0, le=_MAX_TOKENS)] = 256
    """First tokens that `keep_first` never forgets. Less than `window_size`."""

    @model_validator(mode="after")
    def _first_tokens_leave_room(self) -> Self:
        is_asked_for = self.strategy == "keep_first" or "keep_first" in self.model_fields_set
        if is_asked_for and self.keep_first >= self.window_size:
            raise ValueError(f"keep_first {self.keep_first} must be less than window_size {self.window_size}")
        return self


class SpeculativeConfig(_Section):
    """Tokens that are guessed and computed along with the one that is due. They change no token, only the time it
    takes: where guesses are wrong, or cost more than they bring, there are hardly any."""

    method: Literal["prompt_lookup", "none"] = "prompt_lookup"
    """`prompt_lookup`: what followed where prompt or answer read the same before. `none`: nothing is guessed."""
    max_draft_tokens: Annotated[int, Field(ge=0, le=32)] = 15
    """Tokens of one sequence that are guessed at once, at most; 0: none. A request may lower it by its field
    `speculative.n_max`."""


class ResourceQuota(_Section):
    """What one API key may use; absent: without limit. Windows slide: what was used counts for a second, an hour, a day
    from when it was used. A request counts with its prompt and `max_tokens` while it runs, and with the tokens that it
    had, cached ones included, when it is over. One that asks for more than a whole limit runs when nothing else counts,
    and then counts for longer, in proportion."""

    max_tokens_per_second: Rate | None = None
    """Tokens within a second."""
    max_tokens_per_hour: Count | None = None
    """Tokens within an hour."""
    max_tokens_per_day: Count | None = None
    """Tokens within a day."""
    max_requests_per_second: Rate | None = None
    """Requests within a second; 0.5 is one in two seconds."""
    max_requests_per_hour: Count | None = None
    """Requests within an hour."""
    max_requests_per_day: Count | None = None
    """Requests within a day."""
    max_concurrent_requests: Count | None = None
    """Requests that are waiting or running at the same time."""
    max_kv_ram_share: Share | None = None
    """Part of each model's place for KV in RAM that waiting and running requests may hold together: 0.25 is a quarter.
    A request holds room for its prompt and `max_tokens` in whole blocks, at most `hot_tokens`, from when it is let in
    until it is over. One that alone is more is refused for good (400)."""
    max_kv_ssd_share: Share | None = None
    """The same of the model's `max_ssd_mb`, where a request may come to lie as a whole."""

    @property
    def limits_something(self) -> bool:
        """Any of the limits is set."""
        return any(value is not None for value in self.model_dump().values())

    @property
    def limits_kv(self) -> bool:
        """A share of the KV budgets is set."""
        return self.max_kv_ram_share is not None or self.max_kv_ssd_share is not None


class ModelEntry(_Section):
    """One served model. The same path may be served several times under different ids."""

    id: ModelId
    """Name in requests: 1 to 128 of `a-z 0-9 . _ -`, beginning with a letter or digit."""
    path: PathSetting
    """Hugging Face directory (config.json, safetensors, tokenizer.json) or GGUF file (of a split model any part);
    relative to the registry file."""
    aliases: Annotated[tuple[Alias, ...], Field(strict=False)] = ()
    """Further names in requests."""
    max_position_embeddings: Tokens | None = None
    """Context window; may only lower the model's own."""
    sliding_window: Tokens | None = None
    """Attention window of all attention layers; may only narrow the model's own. null: as the model says."""
    load: Literal["at_start", "on_demand"] = "at_start"
    """When the model is loaded for the first time: when the server starts, or when it is asked for."""
    pinned: bool = False
    """true: once loaded, never unloaded."""
    idle_unload_seconds: Seconds | None = None
    """Unload the model when it had no request for so long. Absent: as `server` says; null: never."""
    quantization: Literal["q8_0", "q4_k"] | None = None
    """Quantise the matrices of a safetensors model while they are loaded; `q4_k` keeps the output matrix, or tied
    embeddings, in q6_k. Matrices whose rows are no multiple of a block, 256 for `q4_k` and 32 for `q8_0`, get `q8_0`,
    or else f16. Norms and biases stay f32. null: the width of the checkpoint."""
    pooling: Literal["mean", "last"] | None = None
    """How `/v1/embeddings` makes a vector of a text: the mean of all hidden states, or that of the last token. null: as
    the model's files say, which is `last` where they say nothing."""
    tier_config: TierConfig = TierConfig()
    """Memory budgets."""
    cache: CacheConfig = CacheConfig()
    """Cache strategy."""
    speculative: SpeculativeConfig = SpeculativeConfig()
    """Speculative decoding."""
    tool_parser: Literal["hermes", "hunyuan", "llama3_json", "mistral", "mistral_named", "pythonic", "json"] | None = (
        None
    )
    """How the model writes function calls. null: as its chat template says."""
    resource_quota: ResourceQuota | None = None
    """What each API key may use of this model, beside the quota of its tier."""

    @model_validator(mode="after")
    def _windows_fit_the_context(self) -> Self:
        context = self.max_position_embeddings
        if context is None:
            return self
        if "window_size" in self.cache.model_fields_set and self.cache.window_size > context:
            raise ValueError(
                f"cache.window_size {self.cache.window_size} must be at most max_position_embeddings {context}"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [self.id, *self.aliases]
        if repeated := first_repeated(names):
            raise ValueError(f"the name {repeated!r} is given twice")
        return self

    @model_validator(mode="after")
    def _pinned_is_for_ever(self) -> Self:
        if self.pinned and self.idle_unload_seconds is not None:
            raise ValueError(
                f"idle_unload_seconds {self.idle_unload_seconds:g} must be null for a model that is pinned"
            )
        return self

    def idle_limit(self, server: ServerConfig) -> float | None:
        """Seconds without requests after which the model is unloaded; None = never."""
        if self.pinned:
            return None
        is_own = "idle_unload_seconds" in self.model_fields_set
        return self.idle_unload_seconds if is_own else server.idle_unload_seconds

    @classmethod
    def for_path(cls, path: Path, **settings: object) -> Self:
        """An entry for a model named by its path alone; `settings` are further keys, `id` among them if it is given.

        Raises ConfigError as `RegistryConfig.load` does.
        """
        fields = {"path": _absolute(path), "id": settings.get("id") or model_id_from(path)}
        try:
            return cls.model_validate({**settings, **fields}).supported()
        except ValidationError as error:
            raise ConfigError(describe(error, cls, str(path))) from None

    def placed_in(self, directory: Path) -> Self:
        """The entry with its relative paths taken from `directory`."""
        tiers = self.tier_config
        if tiers.ssd_path is not None:
            tiers = tiers.model_copy(update={"ssd_path": directory / tiers.ssd_path})
        return self.model_copy(update={"path": directory / self.path, "tier_config": tiers})

    def supported(self) -> Self:
        """The entry itself; ConfigError naming the settings whose feature does not exist yet, one line for each."""
        if problems := [f"model {self.id}: {unsupported}" for unsupported in all_unsupported(self, OF_AN_ENTRY)]:
            raise ConfigError("\n".join(problems))
        return self


class RegistryConfig(_Section):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    """HTTP server."""
    models: Annotated[tuple[ModelEntry, ...], Field(strict=False)]
    """Served models, at least one."""
    quota_tiers: dict[str, ResourceQuota] = {}
    """Quotas by name: what a key of that tier may use of all models together. `default` is the tier of keys that name
    none, of `--api-key`, and of everybody where no key is asked for."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if not self.models:
            raise ValueError("models is [], must hold at least one model")
        names = [name for entry in self.models for name in (entry.id, *entry.aliases)]
        if repeated := first_repeated(names):
            raise ValueError(f"the model name {repeated!r} is given twice, as an id or alias")
        return self

    @model_validator(mode="after")
    def _cold_tiers_fit_together(self) -> Self:
        try:
            check_total_ssd(self.models, self.server.max_total_ssd_mb)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads and checks a registry file; relative paths in it are taken from its directory.

        Raises ConfigError naming file, key, value and rule, one line for each problem.
        """
        try:
            registry = cls.model_validate(read_json_object(path))
        except ValidationError as error:
            raise ConfigError(describe(error, cls, str(path))) from None
        registry._refuse_unsupported(path)
        directory = path.parent.resolve()
        models = tuple(entry.placed_in(directory) for entry in registry.models)
        return registry.model_copy(update={"models": models, "server": registry.server.placed_in(directory)})

    def _refuse_unsupported(self, path: Path) -> None:
        problems = [
            f"models[{index}].{unsupported}"
            for index, entry in enumerate(self.models)
            for unsupported in all_unsupported(entry, OF_AN_ENTRY)
        ]
        if problems:
            raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))


def model_id_from(path: Path) -> str:
    """An id made of a directory's or a GGUF file's name: lower case, what an id cannot hold becomes `-`.

    Raises ConfigError.
    """
    stem = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", _absolute(path).name.lower())
    name = re.sub(r"[^a-z0-9._-]+", "-", stem).lstrip("._-")[:_MAX_ID_CHARACTERS]
    if not name:
        raise ConfigError(f"{path}: no model id can be made of this name; serve it from a registry file")
    return name


def _absolute(path: Path) -> Path:
    """From the root. A link to a file is kept: in a download cache it leads to one that is named by a hash."""
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()


def first_repeated(names: list[str]) -> str | None:
    """The first name that stood in the list before."""
    return next((name for index, name in enumerate(names) if name in names[:index]), None)
