"""`transom serve`: settings, models, server, in this order; and what is said meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from transom.cli.banner import show_banner, show_failures, wide_console
from transom.cli.cold_places import unclaimed_bytes
from transom.cli.failure import EXIT_FAILED, even_unheard, say
from transom.cli.flag_names import in_flags
from transom.cli.options import ModelOptions, ServeOptions
from transom.cli.sources import adjust_limits, load_registry, num_threads
from transom.cli.tracing import tracing_to
from transom.config.registry_config import RegistryConfig, ServerConfig
from transom.config.total_budgets import check_total_ssd
from transom.log_lines import log_unhandled, set_up_logging
from transom.quotas import QuotaLedger, Quotas, QuotaStore, steady_wall_clock
from transom.registry import ModelRegistry
from transom.server.admin import create_admin_app
from transom.server.admin_socket import admin_listener
from transom.server.app import create_app
from transom.server.lifecycle import Lifecycle
from transom.server.serving import bind, serve, serving_beside
from transom.server.settings import ServerSettings, as_address, is_loopback

if TYPE_CHECKING:
    from transom.server.tracing import Tracing


def start_server(
    model_options: ModelOptions, serve_options: ServeOptions, log_level: str, *, logs_json: bool = False
) -> None:
    """Runs until a signal. Raises `ConfigError`; exits with 1 when no model can be served."""
    set_up_logging(log_level, as_json=logs_json)
    registry_config = load_registry(model_options)
    settings = server_settings(serve_options, registry_config.server)
    settings.check_bind()
    _check_total_ssd(registry_config)
    admin_path = serve_options.admin_socket or registry_config.server.admin_socket
    with (
        bind(settings.host, settings.port) as listener,
        _admin_listener(admin_path) as admin,
        closing(_quota_ledger(registry_config)) as quotas,
        tracing_to(serve_options.otlp_endpoint) as tracing,
    ):
        registry = _prepare(registry_config, model_options)
        reworded = partial(in_flags, options=model_options)
        if not asyncio.run(_run(registry, settings, quotas, listener, admin, reworded, tracing)):
            raise typer.Exit(EXIT_FAILED)


def show_settings(model_options: ModelOptions, serve_options: ServeOptions, flags: dict[str, Any]) -> None:
    """`--print-config`: the result as a registry file, and each flag's value and origin."""
    registry_config = load_registry(model_options)
    settings = server_settings(serve_options, registry_config.server)
    shown = registry_config.model_dump(mode="json")
    shown["server"] |= {"host": settings.host, "port": settings.port}
    print(json.dumps({"registry": shown, "threads": num_threads(model_options), "flags": flags}, indent=2))


def server_settings(options: ServeOptions, file: ServerConfig) -> ServerSettings:
    """Flags first, then the registry file, whose defaults are the program's."""
    return ServerSettings(
        host=options.host or file.host,
        port=file.port if options.port is None else options.port,
        api_keys=tuple(key for key in options.api_keys if key),
        api_keys_file=file.api_keys_file,
        request_timeout=file.request_timeout_seconds,
        max_waiting_per_key=file.max_waiting_per_key,
        allowed_hosts=options.allowed_hosts,
        default_model=options.default_model,
        max_output_tokens=options.max_output_tokens,
        allow_unknown_fields=options.allow_unknown_fields,
        has_page=options.page,
        allow_prompt_logprobs=options.allow_prompt_logprobs,
        ping_interval=options.ping_interval,
        drain_timeout=options.shutdown_timeout,
    )


def _prepare(config: RegistryConfig, options: ModelOptions) -> ModelRegistry:
    return ModelRegistry.prepare(
        config.models, config.server, num_threads=num_threads(options), adjust=partial(adjust_limits, options)
    )


def _check_total_ssd(config: RegistryConfig) -> None:
    """What removed models have left counts, too. Raises `ConfigError`."""
    if (max_total_ssd_mb := config.server.max_total_ssd_mb) is not None:
        check_total_ssd(config.models, max_total_ssd_mb, unclaimed_bytes(config.models))


def _admin_listener(path: Path | None) -> AbstractContextManager[socket.socket | None]:
    """None where nobody asked for one."""
    return nullcontext() if path is None else admin_listener(path)


def _quota_ledger(config: RegistryConfig) -> QuotaLedger:
    """Nothing is written where nothing is limited."""
    quotas, clock = Quotas.of(config), steady_wall_clock()
    if quotas.is_empty or config.server.state_path is None:
        return QuotaLedger(quotas, clock=clock)
    return QuotaLedger(quotas, QuotaStore(config.server.state_path, clock), clock)


async def _run(
    registry: ModelRegistry,
    settings: ServerSettings,
    quotas: QuotaLedger,
    listener: socket.socket,
    admin: socket.socket | None,
    reworded: Callable[[str], str],
    tracing: Tracing | None,
) -> bool:
    """True when there was something to serve, or when it was stopped before that was known."""
    asyncio.get_running_loop().set_exception_handler(log_unhandled)
    lifecycle = Lifecycle()
    app = create_app(registry, settings, lifecycle, quotas, tracing)
    outcome: list[bool] = []

    async def load_models() -> bool:
        _say_loading(registry)
        failed = await registry.start()
        if not lifecycle.draining:  # else workers were ended on purpose, and nobody wants to hear of it
            show_failures(wide_console(stderr=True), failed, reworded=reworded)
            outcome.append(_say_ready(registry, settings, listener))
        return outcome != [False]

    ending = asyncio.create_task(_say_ending(lifecycle, settings.drain_timeout))
    try:
        async with serving_beside(create_admin_app(registry, lifecycle, quotas), admin):
            await serve(app, listener, settings, lifecycle, load_models)
    finally:
        ending.cancel()
        await registry.close()
    if lifecycle.draining:
        say("stopped")
    return outcome != [False]


def _say_loading(registry: ModelRegistry) -> None:
    names = [served.id for served in registry.models() if served.entry.load == "at_start"]
    if not names:
        return
    with even_unheard():
        wide_console().print(f"Loading {', '.join(names)} ...")


def _say_ready(registry: ModelRegistry, settings: ServerSettings, listener: socket.socket) -> bool:
    """What is served; False when nothing is."""
    served = [served for served in registry.models() if served.can_be_asked]
    if not served:
        return False
    console, url = wide_console(), f"http://{_own_name(settings.host)}:{listener.getsockname()[1]}"
    with even_unheard():
        show_banner(console, served, url, needs_key=settings.needs_key)
        console.print(f"Transom is ready on {url} (process {os.getpid()}). Ctrl-C ends it.")
    return True


async def _say_ending(lifecycle: Lifecycle, drain_seconds: float) -> None:
    """Why Ctrl-C does not end the program at once, when it does not."""
    await lifecycle.until_draining()
    if count := lifecycle.num_running:
        requests = "request" if count == 1 else "requests"
        say(f"finishing {count} {requests}, up to {drain_seconds:g} s; Ctrl-C again ends now")


def _own_name(host: str) -> str:
    """How this machine reaches the server."""
    address = as_address(host)
    if address is None or is_loopback(host):
        return f"[{host}]" if address is not None and address.version == 6 else host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{address}]" if address.version == 6 else host
