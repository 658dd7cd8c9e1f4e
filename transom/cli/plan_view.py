"""How `transom plan` says what it found: rows for people, or JSON. Owns the words."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console

from transom.cli.banner import kv_text, size_text, wide_console
from transom.cli.check import KIND_WORDS
from transom.cli.failure import EXIT_FAILED
from transom.cli.measured_machine import processor_name
from transom.cli.plan import ModelPlan, PlanWish, make_plan
from transom.cli.tables import plain_table
from transom.config.engine_config import DEFAULT_NUM_SEQS, kv_bytes_per_token
from transom.config.kv_size import conv_state_bytes, kv_bytes_per_token_by_kind

__all__ = ["plan_report", "show_plan"]


def show_plan(wish: PlanWish, *, as_json: bool) -> None:
    """Prints the plan; ends the command with 1 when what was asked for does not fit. Raises as `make_plan`."""
    plan = make_plan(wish)
    if as_json:
        print(json.dumps(plan_report(plan), indent=2))
    else:
        _show(wide_console(), plan)
    if not plan.fits:
        raise typer.Exit(EXIT_FAILED)


def plan_report(plan: ModelPlan) -> dict[str, Any]:
    """All of it as JSON has it; sizes in bytes unless the name says otherwise, speeds in tokens per second."""
    config, engine, memory = plan.model_config, plan.engine_config, plan.memory
    hot_bytes, cold_bytes = memory.tiers_of(plan.num_tokens)
    return {
        "model": plan.entry.id,
        "path": os.path.normpath(plan.entry.path),
        "has_weights": plan.has_weights,
        "context_window": engine.context_window,
        "num_tokens": plan.num_tokens,
        "kv_dtype": engine.kv_dtype,
        "kv_bytes_per_token": {
            str(kind): size for kind, size in kv_bytes_per_token_by_kind(config, engine.kv_dtype).items()
        },
        "conv_state_bytes_per_sequence": conv_state_bytes(config),
        "weights_bytes": memory.weights_bytes,
        "kv_cache_ram_bytes": engine.kv_cache_ram_bytes,
        "kv_arena_bytes": memory.arena_bytes,
        "kv_state_bytes": memory.budget.state_bytes,
        "workspace_bytes": memory.workspace_bytes,
        "ram_bytes": plan.ram_bytes,
        "available_ram_bytes": plan.available_ram_bytes,
        "max_ssd_bytes": engine.max_ssd_bytes,
        "request_ram_bytes": hot_bytes,
        "request_ssd_bytes": cold_bytes,
        "max_sequence_tokens": memory.max_sequence_tokens,
        "num_requests_at_once": plan.num_at_once,
        "num_requests_asked_for": plan.num_parallel,
        "max_tokens_of_each": memory.max_tokens_of(plan.num_parallel),
        "fits": plan.fits,
        "needed_ram_mb": plan.needed_ram_mb,
        "needed_max_ssd_mb": plan.needed_ssd_mb,
        "estimate": {
            "by_depth": [
                {"depth": row.depth, "decode_tokens_per_second": row.decode, "prefill_tokens_per_second": row.prefill}
                for row in plan.speeds
            ],
            "prompt_seconds": plan.prompt_seconds,
        },
        "registry_entry": _entry(plan),
    }


def _show(console: Console, plan: ModelPlan) -> None:
    rows = list(_rows(plan))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(f"{name:{width}}  {value}")
    if plan.speeds:
        _show_speeds(console, plan)
    console.print("\nFor the list `models` of a registry file:")
    console.print(json.dumps(_entry(plan), indent=2))
    if plan.engine_config.max_num_seqs > DEFAULT_NUM_SEQS:
        console.print(f"and for the command: --max-num-seqs {plan.engine_config.max_num_seqs}")


def _rows(plan: ModelPlan) -> Iterator[tuple[str, str]]:
    config, engine, memory = plan.model_config, plan.engine_config, plan.memory
    yield "model", f"{plan.entry.id} ({config.model_type}, {engine.quantization or config.dtype})"
    if not plan.has_weights:
        yield (
            "",
            f"there are no weights in {shlex.quote(str(plan.entry.path))}: sizes are those that its config.json claims",
        )
    yield "context window", f"{engine.context_window} tokens, of which {plan.num_tokens} are {_share(plan)}"
    per_token = kv_bytes_per_token(config, engine.kv_dtype)
    yield "KV per token", kv_text(per_token, engine.kv_dtype, conv_state_bytes(config))
    for kind, size in kv_bytes_per_token_by_kind(config, engine.kv_dtype).items():
        yield "", f"{size_text(size)} in {config.layer_types.count(kind)} layers of {KIND_WORDS[kind]}"
    yield "weights", size_text(memory.weights_bytes)
    states = f", {size_text(memory.budget.state_bytes)} of it states" if memory.budget.state_bytes else ""
    yield "KV in RAM", f"{size_text(memory.kv_bytes)}{states}"
    yield "workspace", f"{size_text(memory.workspace_bytes)}, at most"
    yield "RAM", f"{size_text(plan.ram_bytes)} in all; {size_text(plan.available_ram_bytes)} are free here"
    if plan.ram_bytes > plan.available_ram_bytes:
        yield "", f"this machine lacks {size_text(plan.ram_bytes - plan.available_ram_bytes)}"
    yield "KV on SSD", size_text(engine.max_ssd_bytes) if engine.has_cold_tier else "none"
    yield f"{plan.num_tokens} tokens", _tiers_text(plan)
    yield "longest request", f"{memory.max_sequence_tokens} tokens"
    yield "at once", f"{plan.num_at_once} requests of {plan.num_tokens} tokens"
    if plan.num_parallel > 1:
        yield "", f"{plan.num_parallel} requests of up to {memory.max_tokens_of(plan.num_parallel)} tokens each"
    yield "fits", "yes" if plan.fits else f"no: {_missing_text(plan)}"


def _share(plan: ModelPlan) -> str:
    return f"{100 * plan.num_tokens / plan.engine_config.context_window:.3g}%"


def _tiers_text(plan: ModelPlan) -> str:
    hot, cold = plan.memory.tiers_of(plan.num_tokens)
    return f"{size_text(hot)} of KV in RAM" + (f" and {size_text(cold)} on SSD" if cold else "")


def _missing_text(plan: ModelPlan) -> str:
    """What would do, and how much more that is."""
    wanted = f"{plan.num_parallel} requests of {plan.num_tokens} tokens"
    ways = []
    if plan.needed_ram_mb is not None:
        missing = plan.needed_ram_mb * 2**20 - plan.ram_bytes
        ways.append(f"--ram {plan.needed_ram_mb}MiB ({size_text(missing)} more)")
    if plan.needed_ssd_mb is not None:
        missing = plan.needed_ssd_mb * 2**20 - plan.engine_config.max_ssd_bytes
        ways.append(f"--ssd {plan.needed_ssd_mb}MiB ({size_text(missing)} more)")
    return f"{wanted} need {' or '.join(ways)}" if ways else f"{wanted} do not fit, whatever the budgets"


def _show_speeds(console: Console, plan: ModelPlan) -> None:
    threads = plan.engine_config.num_threads
    console.print(
        f"\nExpected speed of one request here ({processor_name()}, {threads} threads); an estimate, in tokens/s:"
    )
    table = plain_table("DEPTH", "DECODE", "PROMPT")
    for row in plan.speeds:
        table.add_row(str(row.depth), f"{row.decode:.3g}", f"{row.prefill:.3g}")
    console.print(table)
    if plan.prompt_seconds is not None:
        num_tokens = min(plan.num_tokens, plan.memory.max_sequence_tokens)
        console.print(f"A prompt of {num_tokens} tokens is read in {plan.prompt_seconds:.3g} s.")


def _entry(plan: ModelPlan) -> dict[str, Any]:
    """What is set, and nothing that is a default."""
    entry: dict[str, Any] = plan.entry.model_dump(mode="json", exclude_unset=True)
    return {"id": plan.entry.id, **entry, "path": os.path.normpath(plan.entry.path)}
