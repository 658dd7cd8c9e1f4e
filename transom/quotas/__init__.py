"""Quotas: what each key may use within a second, an hour, a day, and hold at a time. Knows no HTTP and no engine."""

from transom.quotas.account import Allowance, Use
from transom.quotas.clock import Clock, steady_wall_clock
from transom.quotas.duration import duration_text
from transom.quotas.kv_share import KV_QUANTITIES, KVDemand
from transom.quotas.ledger import QuotaLedger, Reservation
from transom.quotas.limits import Quotas
from transom.quotas.store import NoStore, QuotaStore, ReadStore

__all__ = [
    "KV_QUANTITIES",
    "Allowance",
    "Clock",
    "KVDemand",
    "NoStore",
    "QuotaLedger",
    "QuotaStore",
    "Quotas",
    "ReadStore",
    "Reservation",
    "Use",
    "duration_text",
    "steady_wall_clock",
]
