"""What is read must be read clearly faster than it could be computed."""

from __future__ import annotations

from transom.cache.load_or_recompute import LoadOrRecompute, MeasuredRate


class Fake:
    """A clock and a disk."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_bytes = 0
        self.seconds = 0.0
        self.choice = LoadOrRecompute(lambda: self.now, lambda: (self.num_bytes, self.seconds))

    def compute(self, num_tokens: int, seconds: float) -> None:
        self.choice.begin_pass(num_tokens)
        self.now += seconds
        self.choice.end_pass()

    def read(self, num_bytes: int, seconds: float) -> None:
        self.num_bytes += num_bytes
        self.seconds += seconds


def test_what_is_there_is_used_until_both_rates_are_known() -> None:
    fake = Fake()
    assert fake.choice.is_worth_reading(10**12, 1)
    fake.compute(1000, 1.0)
    assert fake.choice.is_worth_reading(10**12, 1)
    fake.read(1000, 1.0)
    assert not fake.choice.is_worth_reading(10**12, 1)


def test_reading_may_take_four_fifths_of_the_time_of_computing() -> None:
    fake = Fake()
    fake.compute(100, 1.0)  # 100 tokens per second
    fake.read(1000, 1.0)  # 1000 bytes per second
    assert fake.choice.is_worth_reading(7990, 1000)
    assert not fake.choice.is_worth_reading(8010, 1000)


def test_short_passes_and_those_without_an_end_say_nothing() -> None:
    fake = Fake()
    fake.read(1000, 1.0)
    fake.compute(1, 100.0)
    fake.choice.begin_pass(1000)
    fake.now += 1000.0
    fake.choice.begin_pass(0)  # the first one was void; this one reads from the cold tier
    fake.choice.end_pass()
    assert fake.choice.is_worth_reading(10**12, 1)


def test_a_rate_follows_what_was_measured_last() -> None:
    assert MeasuredRate().per_second is None
    rate = MeasuredRate()
    for _ in range(20):
        rate.add(100, 1.0)
    assert rate.per_second == 100
    for _ in range(20):
        rate.add(10, 1.0)
    assert rate.per_second is not None
    assert 10 < rate.per_second < 11
