"""From flags to registry entries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transom.cli.options import KVDtype, ModelOptions
from transom.cli.sources import adjust_limits, bundled_registry, load_registry, num_threads
from transom.config.engine_config import EngineConfig
from transom.errors import ConfigError
from transom.request import CacheStrategy

TOLSTOY = bundled_registry().parent / "tolstoy"


def ids(options: ModelOptions) -> list[str]:
    return [entry.id for entry in load_registry(options).models]


def test_without_a_word_the_bundled_models_are_served() -> None:
    assert ids(ModelOptions()) == ["tolstoy", "tolstoy-window", "recall"]


def test_a_model_is_a_bundled_id_or_a_directory() -> None:
    assert ids(ModelOptions(model="recall")) == ["recall"]
    [entry] = load_registry(ModelOptions(model=str(TOLSTOY))).models
    assert (entry.id, entry.path) == ("tolstoy", TOLSTOY.resolve())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("nothing", "neither a directory, nor a GGUF file, nor a bundled model"),
        ("", "neither a directory, nor a GGUF file, nor a bundled model"),
        ("/no/such/directory", "no such directory"),
        ("../x", "no such directory"),
        ("~/x", "no such directory"),
        ("org/name-7B.v1", "transom pull org/name-7B.v1"),
        (str(TOLSTOY / "config.json"), "give a model's directory"),
        (str(TOLSTOY / "tokenizer.json"), "is a file"),
        (str(TOLSTOY / "model.safetensors"), "is not a GGUF file; give one, or a model's directory"),
    ],
)
def test_anything_else_is_refused_with_the_reason_and_the_bundled_ids(model: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"{reason}.*tolstoy, tolstoy-window, recall"):
        load_registry(ModelOptions(model=model))


def test_a_gguf_file_whose_name_is_a_hash_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    blob = tmp_path / "sha256-4c2d"
    blob.write_bytes(b"GGUF and so on")
    [entry] = load_registry(ModelOptions(model=str(blob))).models
    assert (entry.id, entry.path) == ("sha256-4c2d", blob)


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("My Model-7B.Q4_K_M.gguf", "my-model-7b.q4_k_m"),
        ("big-00002-of-00005.gguf", "big"),
        ("UPPER.GGUF", "upper"),
    ],
)
def test_a_gguf_file_is_named_by_its_name(tmp_path: Path, name: str, model_id: str) -> None:
    (tmp_path / name).touch()
    [entry] = load_registry(ModelOptions(model=str(tmp_path / name))).models
    assert (entry.id, entry.path) == (model_id, (tmp_path / name).resolve())


def test_a_link_keeps_its_name(tmp_path: Path) -> None:
    """A download cache links to files that are named by a hash."""
    (tmp_path / "5f70bf18").touch()
    (tmp_path / "model.gguf").symlink_to("5f70bf18")
    [entry] = load_registry(ModelOptions(model=str(tmp_path / "model.gguf"))).models
    assert (entry.id, entry.path) == ("model", tmp_path / "model.gguf")


def test_a_gguf_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory or file"):
        load_registry(ModelOptions(model=str(tmp_path / "model.gguf")))


def test_a_registry_file_is_served_and_excludes_a_model(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"server": {"port": 1}, "models": [{"id": "mine", "path": str(TOLSTOY)}]}))
    registry = load_registry(ModelOptions(config=file))
    assert [entry.id for entry in registry.models] == ["mine"]
    assert registry.server.port == 1
    with pytest.raises(ConfigError, match="only one of them"):
        load_registry(ModelOptions(config=file, model="tolstoy"))


def test_flags_change_every_entry_and_keep_what_they_do_not_name() -> None:
    options = ModelOptions(max_model_len=4096, kv_cache_dtype=KVDtype.F32, kv_cache_ram_mb=32)
    for entry in load_registry(options).models:
        assert entry.max_position_embeddings == 4096
        assert (entry.tier_config.kv_dtype, entry.tier_config.kv_cache_ram_mb) == ("f32", 32)
        assert entry.tier_config.max_ram_mb is not None
    assert load_registry(options).models[1].sliding_window == 1024


def test_flags_give_a_model_a_cold_tier_and_a_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ModelOptions(
        model="tolstoy",
        max_ssd_mb=64,
        ssd_path=Path("cold"),
        hot_tokens=1024,
        cache_strategy=CacheStrategy.KEEP_FIRST,
        window_size=512,
        keep_first=64,
    )
    [entry] = load_registry(options).models
    tiers, cache = entry.tier_config, entry.cache
    assert (tiers.max_ssd_mb, tiers.ssd_path, tiers.hot_tokens) == (64, tmp_path / "cold", 1024)
    assert (cache.strategy, cache.window_size, cache.keep_first) == ("keep_first", 512, 64)
    assert tiers.max_ram_mb is not None


@pytest.mark.parametrize("number", [0, 7])
def test_a_flag_says_how_many_tokens_are_guessed(number: int) -> None:
    [entry] = load_registry(ModelOptions(model="tolstoy", max_draft_tokens=number)).models
    assert entry.speculative.max_draft_tokens == number


def test_a_cold_tier_needs_a_place() -> None:
    with pytest.raises(ConfigError, match="max_ssd_mb 64 needs ssd_path"):
        load_registry(ModelOptions(model="tolstoy", max_ssd_mb=64))


def test_a_place_needs_a_size_unless_somebody_said_that_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--ssd-path .* needs --max-ssd-mb"):
        load_registry(ModelOptions(ssd_path=tmp_path))
    [entry] = load_registry(ModelOptions(model="tolstoy", ssd_path=tmp_path, max_ssd_mb=0)).models
    assert entry.tier_config.max_ssd_mb == 0
    file = tmp_path / "registry.json"
    tiers = {"max_ssd_mb": 64, "ssd_path": "there"}
    file.write_text(json.dumps({"models": [{"id": "mine", "path": str(TOLSTOY), "tier_config": tiers}]}))
    [entry] = load_registry(ModelOptions(config=file, ssd_path=tmp_path / "here")).models
    assert entry.tier_config.ssd_path == tmp_path / "here"


def test_a_directory_that_holds_no_model_does_not_hide_a_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tolstoy").mkdir()
    [entry] = load_registry(ModelOptions(model="tolstoy")).models
    assert entry.path.resolve() == TOLSTOY.resolve()
    (tmp_path / "tolstoy" / "config.json").write_text("{}")
    [entry] = load_registry(ModelOptions(model="tolstoy")).models
    assert entry.path == tmp_path / "tolstoy"


def test_changed_entries_obey_the_rules_of_the_file() -> None:
    with pytest.raises(ConfigError, match="max_ram_mb"):
        load_registry(ModelOptions(model="tolstoy", max_ram_mb=1))


def test_a_served_name_needs_one_model_and_obeys_the_rules_of_ids() -> None:
    assert ids(ModelOptions(model="tolstoy", served_model_name="war")) == ["war"]
    with pytest.raises(ConfigError, match="one model"):
        load_registry(ModelOptions(served_model_name="war"))
    with pytest.raises(ConfigError, match="lower case"):
        load_registry(ModelOptions(model="tolstoy", served_model_name="War and Peace"))


def test_limits_that_no_registry_key_holds_come_from_flags() -> None:
    config = EngineConfig(TOLSTOY, 8192, "f16", 2**20, None, 1)
    assert adjust_limits(ModelOptions(), config) == config
    changed = adjust_limits(ModelOptions(max_num_seqs=2, max_num_batched_tokens=64), config)
    assert (changed.max_num_seqs, changed.max_num_batched_tokens) == (2, 64)


def test_threads_are_the_cores_of_this_process_unless_given() -> None:
    assert num_threads(ModelOptions(threads=7)) == 7
    assert num_threads(ModelOptions()) >= 1
