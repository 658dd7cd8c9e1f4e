"""Which limits there are, as a table over the fields of `ResourceQuota`, and whom they hold for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from transom.config.registry_config import RegistryConfig, ResourceQuota

SECOND, HOUR, DAY = 1.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class LimitKind:
    """A limit on a sliding window."""

    name: str
    """The field of `ResourceQuota`, and what a refusal calls it."""
    quantity: str
    """`tokens` or `requests`."""
    seconds: float
    """Length of the window."""

    @property
    def is_daily(self) -> bool:
        """Waiting for it is for people, not for programs."""
        return self.seconds >= DAY


TOKENS, REQUESTS = "tokens", "requests"
KINDS = (
    LimitKind("max_tokens_per_second", TOKENS, SECOND),
    LimitKind("max_tokens_per_hour", TOKENS, HOUR),
    LimitKind("max_tokens_per_day", TOKENS, DAY),
    LimitKind("max_requests_per_second", REQUESTS, SECOND),
    LimitKind("max_requests_per_hour", REQUESTS, HOUR),
    LimitKind("max_requests_per_day", REQUESTS, DAY),
)
CONCURRENCY = "max_concurrent_requests"


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quotas of a registry: by tier, for all that a key does, and by model, for what each key does with it."""

    tiers: Mapping[str, ResourceQuota] = field(default_factory=dict)
    models: Mapping[str, ResourceQuota] = field(default_factory=dict)

    @classmethod
    def of(cls, registry: RegistryConfig) -> Quotas:
        """Those of a registry file."""
        models = {entry.id: entry.resource_quota for entry in registry.models if entry.resource_quota is not None}
        return cls(registry.quota_tiers, models)

    @property
    def is_empty(self) -> bool:
        """Nothing is limited."""
        return not any(quota.limits_something for quota in (*self.tiers.values(), *self.models.values()))

    def scopes(self, tier: str, model: str | None) -> Iterator[tuple[str, ResourceQuota]]:
        """What holds for a key of this tier that asks this model (None: no model), by the name of its account."""
        if tier in self.tiers:
            yield f"tier {tier}", self.tiers[tier]
        if model is not None and model in self.models:
            yield f"model {model}", self.models[model]

    def of_scope(self, scope: str) -> ResourceQuota | None:
        """The quota behind the name of an account; None when the registry has none (any more)."""
        kind, _, name = scope.partition(" ")
        return {"tier": self.tiers, "model": self.models}.get(kind, {}).get(name)
