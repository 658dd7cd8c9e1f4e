"""`KVShares`: what the running requests of one key hold of the models' KV budgets, and what they may hold of them.

Place, not use: it is there again when a request is over, so nothing of it outlives the process. Used by one thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from transom.config.registry_config import ResourceQuota
from transom.request import KVBytes

KV_RAM_SHARE, KV_SSD_SHARE = "max_kv_ram_share", "max_kv_ssd_share"

KV_QUANTITIES = {KV_RAM_SHARE: "kv-ram-bytes", KV_SSD_SHARE: "kv-ssd-bytes"}

_NOTHING = KVBytes()


@dataclass(frozen=True, slots=True)
class KVDemand:
    """What a request holds of a model while it runs, and all that the model has."""

    asked: KVBytes
    room: KVBytes


@dataclass(frozen=True, slots=True)
class Share:
    """One share of one model, in bytes."""

    limit: str
    """The field of `ResourceQuota`."""
    part: float
    most: int
    held: int
    asked: int

    @property
    def quantity(self) -> str:
        """What it is of, in the words of headers."""
        return KV_QUANTITIES[self.limit]


class KVShares:
    """Of one key and scope. Sums are kept by model: every model has budgets of its own."""

    def __init__(self, quota: ResourceQuota) -> None:
        self._quota = quota
        self._held: dict[str, KVBytes] = defaultdict(KVBytes)

    def shares(self, model: str, room: KVBytes, asked: KVBytes = _NOTHING) -> Iterator[Share]:
        """Those that are set, for a request that asks for so much of a model whose budgets are `room`."""
        held, most = self._held.get(model, _NOTHING), most_of(self._quota, room)
        if self._quota.max_kv_ram_share is not None:
            yield Share(KV_RAM_SHARE, self._quota.max_kv_ram_share, most.ram, held.ram, asked.ram)
        if self._quota.max_kv_ssd_share is not None and room.ssd:
            yield Share(KV_SSD_SHARE, self._quota.max_kv_ssd_share, most.ssd, held.ssd, asked.ssd)

    def models(self) -> list[str]:
        """Of which something is held."""
        return sorted(self._held)

    def take(self, model: str, asked: KVBytes) -> None:
        """A request holds so much from now on."""
        self._held[model] += asked

    def give_back(self, model: str, asked: KVBytes) -> None:
        """It is over."""
        self._held[model] -= asked
        if self._held[model] == _NOTHING:
            del self._held[model]


def most_of(quota: ResourceQuota, room: KVBytes) -> KVBytes:
    """What the shares of a quota leave of a model's budgets."""
    ram, ssd = quota.max_kv_ram_share, quota.max_kv_ssd_share
    return KVBytes(
        room.ram if ram is None else int(ram * room.ram),
        room.ssd if ssd is None else int(ssd * room.ssd),
    )
