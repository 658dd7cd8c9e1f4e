"""Promise 3 over restarts: logits behind what an earlier process left on SSD are the same bits as without it.

And what was left by other weights, another arithmetic, element type or layout is never found.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import Harness
from tests.test_promise_three_reuse import Text, compute
from tests.test_promise_three_tiers import LONG, MIB, Case, random_tokens, same_bits
from transom import kernels
from transom.cache import cold_format
from transom.config.model_config import LayerKind
from transom.models.decoder_builder import DecoderBuilder

FULL, SLIDING = LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION
LENGTH = 900

CASES = {
    "full": Case(0, "f16", 0, architecture=(LONG,)),
    "full q8_0": Case(0, "q8_0", 0, architecture=(LONG,)),
    "sliding": Case(0, "f32", 0, architecture=(LONG, ("layer_types", (SLIDING, SLIDING)), ("sliding_window", 300))),
    "mixed": Case(0, "f32", 0, architecture=(LONG, ("layer_types", (FULL, SLIDING)), ("sliding_window", 200))),
    "hybrid": Case(0, "f16", 0, family="lfm2", architecture=(LONG,)),
    "gemma3": Case(0, "q8_0", 0, family="gemma3_text", architecture=(LONG, ("sliding_window", 100))),
}
OFTEN_ENOUGH = ("full q8_0", "gemma3")


def harness_of(case: Case, directory: Path, **limits: Any) -> Harness:
    """The model is written once: what a test does to it stays."""
    if not (directory / "model").exists():
        case.harness(directory / "model")
    return Harness(directory / "model", kv_dtype=case.kv_dtype, architecture=dict(case.architecture), **limits)


@contextmanager
def server(case: Case, directory: Path, **limits: Any) -> Iterator[Harness]:
    """One run over the directory: its cold tier is below it, most of a text does not fit into RAM."""
    plain = harness_of(case, directory)
    kv_bytes = plain.cache.budget.peak_bytes(LENGTH)
    limits = {
        "kv_cache_ram_bytes": kv_bytes * 2 // 5 + plain.cache.budget.state_bytes,
        "max_ssd_bytes": 8 * kv_bytes + MIB,
        "ssd_path": directory / "cold",
        "enable_prefix_cache": True,
        **limits,
    }
    harness = harness_of(case, directory, outlives=True, model=plain.model, **limits)
    try:
        yield harness
        harness.cache.check_integrity()
    finally:
        harness.cache.shut_down()


def leave_behind(name: str, directory: Path) -> None:
    """What a process does that is killed afterwards."""
    with server(CASES[name], directory) as harness:
        compute(harness, random_tokens(harness, LENGTH))
        assert harness.cache.flush(30)
        print("left", flush=True)
        sys.stdin.read()


def killed(name: str, directory: Path) -> None:
    program = f"import sys, pathlib; from {__name__} import leave_behind\n"
    program += "leave_behind(sys.argv[1], pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", program, name, str(directory)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "left\n"
        process.kill()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in OFTEN_ENOUGH else []) for name in CASES]
)
def test_hits_after_a_restart_and_after_a_kill_change_no_bit(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    fresh = harness_of(case, tmp_path)
    text = Text(fresh, random_tokens(fresh, LENGTH))
    other = Text(fresh, text.tokens[:500] + random_tokens(fresh, 300, seed=1))
    with server(case, tmp_path) as harness:
        assert compute(harness, text.tokens)[0] == 0
    for _ in range(2):
        with server(case, tmp_path) as harness:
            check_hit(harness, text)
            check_hit(harness, other)
    shutil.rmtree(tmp_path / "cold")
    killed(name, tmp_path)
    with server(case, tmp_path) as harness:
        check_hit(harness, other)
        check_hit(harness, text)
        assert harness.cache.stats().tiers[-1].transfers.num_checksum_failures == 0


def check_hit(harness: Harness, text: Text) -> None:
    found, logits = compute(harness, text.tokens)
    assert found >= 256  # at least: convolutions leave what they remember at the ends of passes alone
    assert same_bits(logits, text.logits[found:])


CASE = CASES["full"]


def found_by_the_next(directory: Path, case: Case = CASE, **limits: Any) -> int:
    with server(case, directory, **limits) as harness:
        found, _ = compute(harness, random_tokens(harness, LENGTH))
        return found


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A directory with a model, and what one run left."""
    assert found_by_the_next(tmp_path) == 0
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("copied"), copy_function=shutil.copy2)
    assert found_by_the_next(copied) > 0
    return tmp_path


def test_one_changed_weight_finds_nothing(left: Path) -> None:
    [path] = (left / "model").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    assert found_by_the_next(left) == 0
    assert found_by_the_next(left) > 0


def test_weights_of_the_same_content_elsewhere_find_everything(left: Path) -> None:
    [path] = (left / "model").glob("*.safetensors")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert found_by_the_next(left) > 0


def test_another_version_of_a_family_finds_nothing(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DecoderBuilder, "arithmetic_version", 10**6)
    assert found_by_the_next(left) == 0


def test_another_version_of_the_kernels_finds_nothing(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ARITHMETIC_VERSION", 10**6)
    assert found_by_the_next(left) == 0


def test_another_numpy_finds_nothing(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sine = np.sin
    monkeypatch.setattr(np, "sin", lambda values: np.nextafter(sine(values), 2.0))
    assert found_by_the_next(left) == 0


def test_another_element_type_finds_nothing(left: Path) -> None:
    assert found_by_the_next(left, Case(0, "f32", 0, architecture=(LONG,))) == 0


def test_another_rope_finds_nothing(left: Path) -> None:
    rope = harness_of(CASE, left).model_config.rope
    changed = type(rope)(**{**{name: getattr(rope, name) for name in rope.__slots__}, "rope_theta": 12345.0})
    assert found_by_the_next(left, Case(0, "f16", 0, architecture=(LONG, ("rope", changed)))) == 0


def test_another_format_finds_nothing(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_format, "FORMAT_VERSION", 3)
    monkeypatch.setattr(cold_format, "_KNOWN_VERSIONS", (1, 2, 3))
    assert found_by_the_next(left) == 0


def occupied_bytes(left: Path) -> int:
    cold = left / "cold"
    return sum(path.lstat().st_blocks * 512 for path in (cold, *cold.iterdir()))


def test_a_smaller_budget_keeps_what_fits_and_a_larger_one_all(left: Path) -> None:
    before = found_by_the_next(left)
    kv_bytes = harness_of(CASE, left).cache.budget.peak_bytes(LENGTH)
    assert found_by_the_next(left, max_ssd_bytes=9 * kv_bytes + MIB) >= before
    small = kv_bytes + kv_bytes // 2 + 32 * 1024  # the directory and its small files
    with server(CASE, left, max_ssd_bytes=small) as harness:
        assert sum(tier.num_physical_bytes for tier in harness.cache.stats().tiers) <= small
        compute(harness, random_tokens(harness, LENGTH))
    assert occupied_bytes(left) <= small


def test_without_the_prefix_cache_nothing_is_left(left: Path) -> None:
    assert found_by_the_next(left, enable_prefix_cache=False) == 0
    assert {path.name for path in (left / "cold").iterdir()} == {"fingerprint.json", "format.json", "lock"}
