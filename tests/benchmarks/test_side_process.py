"""An engine in a process of its own, as benchmarks ask it: a real one with a tiny model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.against_llama_cpp import ROWS
from benchmarks.side_process import Question, Setting, SideProcess
from benchmarks.synthetic_model import synthetic_model


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SideProcess]:
    model = synthetic_model("tiny", "bfloat16", tmp_path_factory.mktemp("models"))
    process = SideProcess(
        Path(sys.executable), "transom_side", str(model), "--threads", "1", "--kv-tokens", "2048"
    )  # fmt: skip
    yield process
    process.stop()


@pytest.mark.parametrize(
    "question",
    [
        Question("prefill", 0, 64),
        Question("prefill", 512, 64),
        Question("decode", 512, 2),
        Question("decode", 64, 2, num_sequences=5),
        Question("generate", 16, 4, num_sequences=3),
    ],
)
def test_a_question_is_answered_in_seconds(side: SideProcess, question: Question) -> None:
    assert 0 < side.ask(question) < 30


def test_it_says_what_it_is_and_how_much_memory_it_took(side: SideProcess) -> None:
    assert side.description.startswith("transom")
    assert side.load_seconds > 0
    assert side.peak_rss_mib() > 20


def test_the_logits_of_a_text_do_not_depend_on_what_follows(side: SideProcess, tmp_path: Path) -> None:
    path = tmp_path / "logits.npy"
    side.save_logits([1, 2, 3, 4], path)
    longer = np.load(path)
    side.save_logits([1, 2, 3], path)
    assert longer.shape == (4, 512)
    assert np.array_equal(np.load(path), longer[:3])


def test_a_process_that_cannot_load_ends_the_comparison(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="transom_side ended with status 1"):
        SideProcess(Path(sys.executable), "transom_side", str(tmp_path / "nothing"), "--threads", "1")


def test_rows_and_settings_have_names_that_tell_them_apart() -> None:
    assert len({row.name for row in ROWS.values()}) == len(ROWS)
    assert ROWS["prefill-16k"].name == "prefill of 512 behind 16384"
    assert ROWS["decode-together"].name == "decode at 512, 16 together"
    assert str(Setting(True, 128, is_unified=False)) == "flash, ubatch 128, KV per sequence"
