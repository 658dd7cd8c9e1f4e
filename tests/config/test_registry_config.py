"""The registry file: everything is checked, nothing is ignored."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transom.config.registry_config import ModelEntry, RegistryConfig, model_id_from
from transom.errors import ConfigError

MODEL = {"id": "tiny", "path": "models/tiny"}


def load(tmp_path: Path, content: object) -> RegistryConfig:
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return RegistryConfig.load(path)


def load_model(tmp_path: Path, **changes: Any) -> ModelEntry:
    return load(tmp_path, {"models": [{**MODEL, **changes}]}).models[0]


def test_the_shortest_file_has_the_documented_defaults(tmp_path: Path) -> None:
    registry = load(tmp_path, {"models": [MODEL]})
    assert (registry.server.host, registry.server.port) == ("127.0.0.1", 9632)
    (entry,) = registry.models
    assert (entry.load, entry.aliases, entry.cache.strategy) == ("at_start", (), "full")
    assert (entry.tier_config.kv_dtype, entry.tier_config.kv_cache_ram_mb) == ("f16", None)


def test_paths_are_taken_from_the_directory_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load_model(tmp_path).path == tmp_path / "models" / "tiny"
    assert load_model(tmp_path, path="/srv/tiny").path == Path("/srv/tiny")


def test_everything_that_is_supported_is_accepted(tmp_path: Path) -> None:
    tiers = {"max_ram_mb": 6000, "kv_cache_ram_mb": 1024, "max_ssd_mb": 0, "ssd_path": None, "hot_tokens": None}
    entry = load_model(
        tmp_path,
        aliases=["gpt-4o", "Org/Model"],
        max_position_embeddings=4096,
        sliding_window=4096,
        load="at_start",
        quantization=None,
        tier_config={**tiers, "enable_tiering": True, "enable_distributed": False, "kv_dtype": "q8_0"},
        cache={"strategy": "full", "window_size": 1024, "keep_first": 256},
        resource_quota=None,
    )
    assert entry.aliases == ("gpt-4o", "Org/Model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"models": [{**MODEL, "tier_confg": {}}]},
            "models[0].tier_confg is not a known key; did you mean tier_config?",
        ),
        ({"modles": [MODEL]}, "modles is not a known key; did you mean models?"),
        ({"models": [{**MODEL, "xyz": 1}]}, "models[0].xyz is not a known key; known keys: id, path, aliases"),
        (
            {"models": [{**MODEL, "tier_config": {"kv_cash_ram_mb": 1}}]},
            "models[0].tier_config.kv_cash_ram_mb is not a known key; did you mean kv_cache_ram_mb?",
        ),
        ({"models": [MODEL], "server": {"prot": 1}}, "server.prot is not a known key; did you mean port?"),
        ({"models": [MODEL], "server": {"port": 65536}}, "server.port is 65536, must be less than or equal to 65535"),
        ({"models": [MODEL], "server": {"port": "9632"}}, 'server.port is "9632", must be an integer'),
        ({"models": [MODEL], "server": {"host": ""}}, 'server.host is "", must have at least 1 character'),
        ({"models": []}, "models is [], must hold at least one model"),
        ({}, "models is missing"),
        ({"models": {}}, "models is {}, must be a list"),
        ({"models": [3]}, "models[0] is 3, must be"),
        ({"models": [{"id": "a"}]}, "models[0].path is missing"),
        ({"models": [MODEL, MODEL]}, "the model name 'tiny' is given twice"),
        ({"models": [MODEL, {**MODEL, "id": "b", "aliases": ["tiny"]}]}, "the model name 'tiny' is given twice"),
        ('{"models": [], "models": []}', "key 'models' appears twice"),
        ('{"models": [{"id": "a", "id": "b", "path": "x"}]}', "key 'id' appears twice"),
    ],
)
def test_a_problem_is_named_with_file_key_value_and_rule(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert "\n" not in str(caught.value).replace("\n" + str(tmp_path), " ")


@pytest.mark.parametrize(
    "model_id", ["../../x", "x%2f..", "/etc", "a\0b", "C:\\x", "a" * 129, "Upper", "аdmin", ".a", ""]
)
def test_s14_a_model_id_is_a_plain_lower_case_name(tmp_path: Path, model_id: str) -> None:
    with pytest.raises(ConfigError, match=r"models\[0\]\.id is .*, must be 1 to 128 of"):
        load_model(tmp_path, id=model_id)


@pytest.mark.parametrize("model_id", ["a", "0", "hymt-1.5-7b-q4km", "a_b.c-d", "a" * 128])
def test_ids_in_use_are_accepted(tmp_path: Path, model_id: str) -> None:
    assert load_model(tmp_path, id=model_id).id == model_id


@pytest.mark.parametrize("alias", ["", "a b", "a\n", "é", "a" * 257, 3])
def test_an_alias_is_printable_ascii(tmp_path: Path, alias: object) -> None:
    with pytest.raises(ConfigError, match=r"models\[0\]\.aliases\[0\] is"):
        load_model(tmp_path, aliases=[alias])


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("tier_config", "max_ram_mb", 0),
        ("tier_config", "max_ram_mb", -1),
        ("tier_config", "max_ram_mb", True),
        ("tier_config", "max_ram_mb", 2.0),
        ("tier_config", "max_ram_mb", "6000"),
        ("tier_config", "max_ram_mb", 2**63),
        ("tier_config", "kv_cache_ram_mb", math.nan),
        ("tier_config", "max_ssd_mb", -1),
        ("tier_config", "max_ssd_mb", None),
        ("tier_config", "hot_tokens", 0),
        ("tier_config", "enable_tiering", 1),
        ("tier_config", "enable_distributed", "yes"),
        ("tier_config", "kv_dtype", "f8"),
        ("tier_config", "ssd_path", 3),
        ("cache", "strategy", "lru"),
        ("cache", "window_size", 0),
        ("cache", "keep_first", -1),
        ("resource_quota", "max_tokens_per_second", math.nan),
        ("resource_quota", "max_tokens_per_second", 0),
        ("resource_quota", "max_tokens_per_hour", -1),
        ("resource_quota", "max_tokens_per_day", 1.5),
        ("resource_quota", "max_requests_per_hour", True),
    ],
)
def test_values_beyond_their_bounds_are_refused_by_key(tmp_path: Path, section: str, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path, **{section: {key: value}})
    assert f"models[0].{section}.{key} is " in str(caught.value)
    assert "must be" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tier_config": {"kv_cache_ram_mb": 51, "max_ram_mb": 50}},
            "kv_cache_ram_mb 51 must be at most max_ram_mb 50",
        ),
        (
            {"cache": {"strategy": "keep_first", "window_size": 10}},
            "keep_first 256 must be less than window_size 10",
        ),
        ({"cache": {"window_size": 10, "keep_first": 10}}, "keep_first 10 must be less than window_size 10"),
        ({"cache": {"keep_first": 2000}}, "keep_first 2000 must be less than window_size 1024"),
        (
            {"max_position_embeddings": 512, "cache": {"window_size": 1024}},
            "cache.window_size 1024 must be at most max_position_embeddings 512",
        ),
        ({"tier_config": {"max_ssd_mb": 100}}, "max_ssd_mb 100 needs ssd_path, the directory of the cold tier"),
        ({"aliases": ["tiny"]}, "the name 'tiny' is given twice"),
        ({"max_position_embeddings": 0}, "models[0].max_position_embeddings is 0"),
        ({"sliding_window": 0}, "models[0].sliding_window is 0"),
        ({"load": "never"}, "models[0].load is"),
    ],
)
def test_rules_between_keys_are_checked_with_their_numbers(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path, **changes)
    assert message in str(caught.value)
    assert "models[0]" in str(caught.value)


def test_a_small_context_does_not_trip_over_a_default_nobody_wrote(tmp_path: Path) -> None:
    assert load_model(tmp_path, max_position_embeddings=512).cache.window_size == 1024


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tier_config": {"enable_distributed": True}}, "tier_config.enable_distributed is true"),
    ],
)
def test_what_does_not_exist_yet_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match="not supported yet") as caught:
        load_model(tmp_path, **changes)
    assert f"models[0].{named}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_fields_of_quotas_are_accepted(tmp_path: Path) -> None:
    quota = {
        "max_tokens_per_second": 1000.0,
        "max_tokens_per_hour": 1,
        "max_tokens_per_day": 1,
        "max_requests_per_second": 0.5,
        "max_requests_per_hour": 1,
        "max_requests_per_day": 1,
        "max_concurrent_requests": 1,
        "max_kv_ram_share": 0.25,
        "max_kv_ssd_share": 1.0,
    }
    registry = load(tmp_path, {"models": [{**MODEL, "resource_quota": quota}], "quota_tiers": {"a": quota, "b": {}}})
    assert registry.models[0].resource_quota == registry.quota_tiers["a"]
    assert registry.quota_tiers["a"].model_dump() == quota
    assert [registry.quota_tiers[name].limits_something for name in "ab"] == [True, False]


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan"), float("inf"), "0.5", True])
def test_a_share_is_more_than_nothing_and_at_most_all(tmp_path: Path, share: object) -> None:
    with pytest.raises(ConfigError, match="max_kv_ram_share"):
        load(tmp_path, {"models": [MODEL], "quota_tiers": {"a": {"max_kv_ram_share": share}}})


def test_the_state_lies_beside_the_file_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, {"models": [MODEL]}).server.state_path == tmp_path / "transom-state"
    registry = load(tmp_path, {"models": [MODEL], "server": {"state_path": "/var/lib/transom"}})
    assert registry.server.state_path == Path("/var/lib/transom")


def test_the_keys_file_lies_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    registry = load(tmp_path, {"models": [MODEL], "server": {"api_keys_file": "secrets/keys.json"}})
    assert registry.server.api_keys_file == tmp_path / "secrets" / "keys.json"
    assert load(tmp_path, {"models": [MODEL]}).server.api_keys_file is None


def test_all_settings_that_do_not_exist_yet_are_named_at_once(tmp_path: Path) -> None:
    models = [{**MODEL, "id": name, "tier_config": {"enable_distributed": True}} for name in "ab"]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"models": models})
    first, second = str(caught.value).splitlines()
    assert "models[0].tier_config.enable_distributed is true" in first
    assert "models[1].tier_config.enable_distributed is true" in second


def test_an_entry_without_an_idle_time_takes_the_servers_and_null_is_never(tmp_path: Path) -> None:
    models = [
        {**MODEL, "id": "as-the-server"},
        {**MODEL, "id": "own", "idle_unload_seconds": 5},
        {**MODEL, "id": "never", "idle_unload_seconds": None},
        {**MODEL, "id": "pinned", "pinned": True},
    ]
    registry = load(tmp_path, {"server": {"idle_unload_seconds": 60}, "models": models})
    assert [entry.idle_limit(registry.server) for entry in registry.models] == [60, 5, None, None]


def test_a_pinned_model_has_no_idle_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="idle_unload_seconds 5 must be null for a model that is pinned"):
        load_model(tmp_path, pinned=True, idle_unload_seconds=5)


def test_the_admin_socket_is_taken_from_the_directory_of_the_file(tmp_path: Path) -> None:
    registry = load(tmp_path, {"server": {"admin_socket": "run/admin"}, "models": [MODEL]})
    assert registry.server.admin_socket == tmp_path / "run" / "admin"


def test_cold_tiers_that_do_not_fit_together_are_refused_with_the_numbers(tmp_path: Path) -> None:
    tiers = {"max_ssd_mb": 60, "ssd_path": "cold"}
    models = [{**MODEL, "id": name, "tier_config": tiers} for name in "ab"]
    assert load(tmp_path, {"server": {"max_total_ssd_mb": 120}, "models": models})
    with pytest.raises(ConfigError, match=r"max_total_ssd_mb is 119.*come to 120 \(a 60 \+ b 60\)"):
        load(tmp_path, {"server": {"max_total_ssd_mb": 119}, "models": models})
    models[1]["tier_config"] = {**tiers, "enable_tiering": False}
    assert load(tmp_path, {"server": {"max_total_ssd_mb": 60}, "models": models})


def test_an_ssd_budget_is_fine_while_tiering_is_off(tmp_path: Path) -> None:
    assert load_model(tmp_path, tier_config={"max_ssd_mb": 100, "enable_tiering": False}).tier_config.max_ssd_mb == 100


def test_the_home_directory_may_be_written_as_shells_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/reader")
    file, tiers = tmp_path / "registry.json", {"max_ssd_mb": 8, "ssd_path": "~/cold"}
    file.write_text(json.dumps({"models": [{"id": "x", "path": "~/model", "tier_config": tiers}]}))
    [entry] = RegistryConfig.load(file).models
    assert (entry.path, entry.tier_config.ssd_path) == (Path("/home/reader/model"), Path("/home/reader/cold"))
    file.write_text(json.dumps({"models": [{"id": "x", "path": "~nobody-of-this-name/model"}]}))
    with pytest.raises(ConfigError, match="must begin with the ~ of a user"):
        RegistryConfig.load(file)


def test_the_cold_tier_lies_relative_to_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    tiers = load_model(tmp_path, tier_config={"max_ssd_mb": 100, "ssd_path": "cold", "hot_tokens": 64}).tier_config
    assert (tiers.max_ssd_mb, tiers.ssd_path, tiers.hot_tokens) == (100, tmp_path / "cold", 64)
    assert load_model(tmp_path, tier_config={"ssd_path": "/var/cold"}).tier_config.ssd_path == Path("/var/cold")
    assert load_model(tmp_path).tier_config.ssd_path is None


@pytest.mark.parametrize("strategy", ["full", "fifo", "sliding_window", "keep_first", "adaptive"])
def test_every_strategy_is_accepted_with_its_default_sizes(tmp_path: Path, strategy: str) -> None:
    cache = load_model(tmp_path, cache={"strategy": strategy}).cache
    assert (cache.strategy, cache.window_size, cache.keep_first) == (strategy, 1024, 256)


def test_a_default_that_the_strategy_does_not_use_is_in_nobodys_way(tmp_path: Path) -> None:
    assert load_model(tmp_path, cache={"strategy": "sliding_window", "window_size": 10}).cache.keep_first == 256


def test_several_problems_take_a_line_each(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_model(tmp_path, load="never", sliding_window=-1)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(str(tmp_path)) for line in lines)


def test_a_directory_on_the_command_line_becomes_an_entry(tmp_path: Path) -> None:
    directory = tmp_path / "My Model_v1.5 (f16)"
    directory.mkdir()
    entry = ModelEntry.for_path(directory, max_position_embeddings=100)
    assert (entry.id, entry.path, entry.max_position_embeddings) == ("my-model_v1.5-f16-", directory, 100)
    with pytest.raises(ConfigError, match="max_position_embeddings is 0"):
        ModelEntry.for_path(directory, max_position_embeddings=0)
    with pytest.raises(ConfigError, match="not supported yet"):
        ModelEntry.for_path(directory, tier_config={"enable_distributed": True})


def test_a_directory_that_gives_no_id_may_be_given_one(tmp_path: Path) -> None:
    assert ModelEntry.for_path(tmp_path / "___", id="mine").id == "mine"


def test_a_name_without_any_usable_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model id can be made of this name"):
        model_id_from(tmp_path / "___")


@given(st.text(min_size=1, max_size=200).filter(lambda name: name not in (".", "..") and not {"/", "\0"} & {*name}))
def test_an_id_made_of_any_directory_name_is_a_valid_id(name: str) -> None:
    try:
        model_id = model_id_from(Path("/models") / name)
    except ConfigError:
        return
    assert ModelEntry.model_validate({"id": model_id, "path": "x"}).id == model_id


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*ModelEntry.model_fields, "other"]), _JSON, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_value_under_any_key_gives_an_entry_or_a_config_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    try:
        load_model(tmp_path, **changes)
    except ConfigError as error:
        assert str(tmp_path) in str(error)
