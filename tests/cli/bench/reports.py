"""A report with every kind of point, for tests of what shows it."""

from __future__ import annotations

from transom.cli.bench.report import BenchedModel, Machine, Point, Rate, Report, Tiers


def point(tiers: Tiers = Tiers.RAM, strategy: str = "full", depth: int = 0, **changed: float) -> Point:
    """Three rounds; the figures are different for each depth."""
    return Point(
        tiers=tiers,
        strategy=strategy,
        depth=depth,
        prefill=Rate((300.0, 100.0, 200.0)),
        decode=Rate((10.0 + depth, 20.0 + depth, 15.0 + depth)),
        decode_depth=depth + 512,
        num_forgotten_tokens=int(changed.get("num_forgotten_tokens", 0)),
        decode_limit=changed.get("decode_limit"),
    )


def report(*points: Point) -> Report:
    """Of a model and a machine that there are not."""
    return Report(
        version="1.2.3",
        date="2026-11-25T03:13+00:00",
        command="transom bench tiny",
        machine=Machine("Abacus", 2, 1, "portable", 2**33, 25e9, "Linux"),
        model=BenchedModel("tiny", "float32", 1_500_000, 6_000_000, 8192, "f16", 2048),
        num_prefill_tokens=512,
        num_decode_tokens=32,
        num_rounds=3,
        ram_bytes={Tiers.RAM: 2**24, Tiers.RAM_AND_SSD: 2**23},
        ssd_bytes=2**28,
        points=list(points),
    )
