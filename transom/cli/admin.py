"""`transom ps | load | unload | drain`: what they ask the running server, and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transom.cli.admin_client import AdminClient
from transom.cli.banner import size_text, wide_console
from transom.cli.options import ModelOptions
from transom.cli.sources import load_registry
from transom.cli.tables import plain_table
from transom.errors import ConfigError

_HEADINGS = ("MODEL", "STATE", "LOADS", "REQUESTS", "WAITING", "IDLE", "RAM", "OF", "RESTARTS", "PROCESS", "REASON")


def client_of(path: Path | None, config: Path | None) -> AdminClient:
    """The socket that is named, or else the registry file's. Raises `ConfigError` where there is none."""
    if path is None and config is not None:
        path = load_registry(ModelOptions(config=config)).server.admin_socket
    if path is None:
        raise ConfigError(
            "which server? --admin-socket PATH or --config FILE say it; a server has a socket by --admin-socket, or "
            "server.admin_socket of its registry file"
        )
    return AdminClient(path)


def show_models(client: AdminClient, *, as_json: bool) -> None:
    """One row per model."""
    models = client.models()
    if as_json:
        print(json.dumps(models, indent=2))
        return
    shown = plain_table(*_HEADINGS)
    for model in models:
        shown.add_row(*_cells(model))
    wide_console().print(shown)


def load_model(client: AdminClient, model: str) -> None:
    """Returns when it is loaded."""
    client.load(model)
    print(f"{model} is loaded")


def unload_model(client: AdminClient, model: str) -> None:
    """Returns when it is unloaded."""
    client.unload(model)
    print(f"{model} is unloaded")


def drain_server(client: AdminClient) -> None:
    """Returns at once."""
    print(f"the server ends when its requests have ended ({client.drain()} now)")


def _cells(model: dict[str, Any]) -> tuple[str, ...]:
    idle, limit = model.get("idle_seconds"), model.get("max_ram_bytes") or model.get("counted_ram_bytes")
    loads = "pinned" if model.get("pinned") else model["load"]
    return (
        model["id"],
        model["state"],
        loads,
        str(model.get("num_requests", "-")),
        str(model.get("num_waiting", "-")),
        "-" if idle is None else f"{idle:.0f} s",
        size_text(model.get("resident_bytes", 0)),
        size_text(limit) if limit else "-",
        str(model.get("num_restarts", "-")),
        str(model.get("worker_pid") or "-"),
        model.get("reason", "-"),
    )
