"""`transom quota` as it prints what the server wrote."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from transom.cli.app import app
from transom.cli.quota import show_quotas
from transom.config.registry_config import RegistryConfig
from transom.quotas import KVDemand, QuotaLedger, Quotas, QuotaStore
from transom.registry import ModelRegistry
from transom.request import KVBytes
from transom.server.admin import create_admin_app
from transom.server.admin_socket import admin_listener
from transom.server.lifecycle import Lifecycle
from transom.server.serving import serving_beside

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


async def test_a_running_server_tells_what_its_requests_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = registry(
        tmp_path,
        server={"admin_socket": "admin"},
        quota_tiers={"gold": {"max_tokens_per_hour": 100, "max_kv_ram_share": 0.5}},
    )
    ledger = QuotaLedger(Quotas.of(RegistryConfig.load(config)))
    held = ledger.reserve("laptop", "gold", "tiny", 40, KVDemand(KVBytes(ram=300), KVBytes(ram=1000)))
    app = create_admin_app(ModelRegistry([]), Lifecycle(), ledger)
    with admin_listener(tmp_path / "admin") as listener:
        async with serving_beside(app, listener):
            await asyncio.to_thread(show_quotas, config, None, as_json=False)
            row = next(line for line in capsys.readouterr().out.splitlines() if "max_kv_ram_share" in line)
            assert row.split() == ["laptop", "tier", "gold,", "tiny", "max_kv_ram_share", "300", "500", "-"]
            held.settle(7)
            await asyncio.to_thread(show_quotas, config, "laptop", as_json=True)
    uses = {use["limit"]: use["used"] for use in json.loads(capsys.readouterr().out)}
    assert uses == {"max_tokens_per_hour": 7, "max_tokens_per_day": 7}
    await asyncio.to_thread(show_quotas, config, None, as_json=False)
    assert "Nothing is used." in capsys.readouterr().out, "without a server the database is what there is"
