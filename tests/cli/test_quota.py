"""`transom quota` as it prints what the server wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from transom.cli.app import app
from transom.config.registry_config import RegistryConfig
from transom.quotas import QuotaLedger, Quotas, QuotaStore

QUOTA = {"max_tokens_per_hour": 1000, "max_requests_per_day": 5}


def registry(tmp_path: Path, **more: Any) -> Path:
    path = tmp_path / "config.json"
    model = {"id": "tiny", "path": "tiny", "resource_quota": {"max_tokens_per_day": 50}}
    path.write_text(json.dumps({"models": [model], "quota_tiers": {"gold": QUOTA}, **more}))
    return path


def use_some(config: Path) -> None:
    loaded = RegistryConfig.load(config)
    assert loaded.server.state_path is not None
    ledger = QuotaLedger(Quotas.of(loaded), QuotaStore(loaded.server.state_path))
    ledger.reserve("laptop", "gold", "tiny", 40).settle(25)
    ledger.reserve("phone", "gold", "other", 300).settle(250)
    ledger.close()


def quota(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["quota", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_use_of_every_key_is_shown(tmp_path: Path) -> None:
    config = registry(tmp_path)
    use_some(config)
    code, table, _ = quota("--config", str(config))
    assert code == 0
    for cell in ("laptop", "phone", "tier gold", "model tiny", "max_tokens_per_hour", "250", "1000", "1h0m"):
        assert cell in table
    code, text, _ = quota("laptop", "--config", str(config), "--json")
    assert [(use["limit"], use["used"], use["most"]) for use in json.loads(text)] == [
        ("max_tokens_per_day", 25, 50),
        ("max_tokens_per_hour", 25, 1000),
        ("max_requests_per_day", 1, 5),
    ]


def test_the_state_lies_where_the_registry_says(tmp_path: Path) -> None:
    config = registry(tmp_path, server={"state_path": "elsewhere"})
    use_some(config)
    assert (tmp_path / "elsewhere" / "quotas.sqlite").exists()
    assert "laptop" in quota("--config", str(config))[1]


def test_nothing_used_and_nothing_limited_are_said(tmp_path: Path) -> None:
    config = registry(tmp_path)
    assert quota("--config", str(config))[:2] == (0, "Nothing is used.\n")
    assert not (tmp_path / "transom-state").exists()
    config.write_text(json.dumps({"models": [{"id": "tiny", "path": "tiny"}]}))
    assert "no quotas are kept" in quota("--config", str(config))[2]
    assert "which registry file?" in quota()[2]
