"""What an identity depends on, and what it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import write_tiny_llama
from tests.harness import Harness
from transom import kernels
from transom.engine.model_identity import ModelIdentity
from transom.models.llama import LlamaBuilder
from transom.weights.sources import open_weights


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> ModelIdentity:
    directory = tmp_path_factory.mktemp("model")
    write_tiny_llama(directory)
    harness = Harness(directory)
    return ModelIdentity(harness.model_config, harness.engine_config, open_weights(directory).files)


def digest(identity: ModelIdentity) -> bytes:
    return identity(None)[0]


def test_it_is_the_same_every_time_and_says_what_to_remember(identity: ModelIdentity) -> None:
    first, remembered = identity(None)
    assert (first, remembered) == identity(remembered)
    assert len(first) == 32


def test_budgets_and_limits_make_no_other_model(identity: ModelIdentity) -> None:
    config = replace(
        identity.engine_config, kv_cache_ram_bytes=12345, max_ssd_bytes=10**6, ssd_path=Path("x"), max_num_seqs=3
    )
    assert digest(replace(identity, engine_config=config)) == digest(identity)


def test_what_computes_otherwise_is_another(identity: ModelIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [
        replace(identity, engine_config=replace(identity.engine_config, kv_dtype="f16")),
        replace(identity, engine_config=replace(identity.engine_config, quantization="q8_0")),
        replace(identity, model_config=replace(identity.model_config, rms_norm_eps=1e-3)),
        replace(identity, files=[*identity.files, *identity.files]),
    ]
    digests = {digest(identity), *(digest(other) for other in others)}
    with monkeypatch.context() as changed:
        changed.setattr(LlamaBuilder, "arithmetic_version", 2)
        digests.add(digest(identity))
    monkeypatch.setattr(kernels, "ARITHMETIC_VERSION", kernels.ARITHMETIC_VERSION + 1)
    digests.add(digest(identity))
    assert len(digests) == len(others) + 3
