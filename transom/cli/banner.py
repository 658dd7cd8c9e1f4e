"""What `transom serve` shows: each model's windows, costs and budgets, and a request to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from transom.config.engine_config import kv_bytes_per_token
from transom.config.kv_size import conv_state_bytes
from transom.config.model_config import LayerKind, ModelConfig

if TYPE_CHECKING:  # half a second of imports, which `transom ps` and others would wait for in vain
    from transom.registry import FailedModel, ServedModel

_PROMPTS = {
    "tolstoy": "Prince Andrew looked at the sky",
    "tolstoy-window": "Prince Andrew looked at the sky",
    "recall": "The secret code of Anna is 4711-falcon. Some birds sing at night. The secret code of Anna is",
}
_ANY_PROMPT = "Once upon a time"
_WIDTH = 1000
_HEADINGS = (
    "MODEL",
    "CONTEXT WINDOW",
    "ATTENTION WINDOW",
    "STRATEGY",
    "LONGEST REQUEST",
    "FULL ONES AT ONCE",
    "KV PER TOKEN",
    "KV IN RAM",
    "KV ON SSD",
    "TYPE",
    "WEIGHTS",
    "RAM IN ALL",
    "THREADS",
)


def wide_console(*, stderr: bool = False) -> Console:
    """A console that never cuts a line: tables and commands are for copying, too."""
    return Console(stderr=stderr, width=_WIDTH, markup=False, highlight=False)


def show_banner(console: Console, models: Iterable[ServedModel], url: str, *, needs_key: bool) -> None:
    """The table of what is served, and the first request."""
    models = tuple(models)
    console.print(model_table(models))
    if models:
        console.print("Try:")
        answers_at_once = next((model for model in models if model.is_ready), models[0])
        console.print(curl_line(answers_at_once.id, url, needs_key=needs_key))


def show_failures(console: Console, failed: Iterable[FailedModel], *, reworded: Callable[[str], str] = str) -> None:
    """One line for each model that is not served; `reworded` may say its reason in the user's words."""
    for failure in failed:
        model_id = failure.entry.id
        reason = " ".join(reworded(str(failure.error)).split()).removeprefix(f"model {model_id}: ")
        console.print(f"transom: the model {model_id} is not served: {reason}")


def model_table(models: Iterable[ServedModel]) -> Table:
    """One row per model; what is known only of loaded ones is a dash for others."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=True)
    for served in models:
        engine, report = served.engine_config, served.engine.report
        per_token = kv_bytes_per_token(served.model_config, engine.kv_dtype)
        table.add_row(
            served.id,
            f"{engine.context_window} tokens",
            window_text(served.model_config.sliding_window, count_full_attention(served.model_config)),
            engine.cache.strategy.value,
            "-" if report is None else f"{served.max_request_tokens(engine.cache)} tokens",
            "-" if report is None else str(report.num_full_requests),
            kv_text(per_token, engine.kv_dtype, conv_state_bytes(served.model_config)),
            size_text(engine.kv_cache_ram_bytes),
            size_text(engine.max_ssd_bytes) if engine.has_cold_tier else "-",
            served.model_config.dtype,
            "-" if report is None else size_text(report.weights_bytes),
            "-" if report is None else size_text(report.ram_bytes),
            str(engine.num_threads),
        )
    return table


def curl_line(model: str, url: str, *, needs_key: bool) -> str:
    """A completion request that works when pasted into a shell."""
    body = json.dumps({"model": model, "prompt": _PROMPTS.get(model, _ANY_PROMPT), "max_tokens": 60})
    key = "-H 'authorization: Bearer '\"$TRANSOM_API_KEY\" " if needs_key else ""
    return f"curl {url}/v1/completions -H 'content-type: application/json' {key}-d {shlex.quote(body)}"


def window_text(sliding_window: int | None, num_full_layers: int) -> str:
    """The attention window in words; where some layers attend to everything, it is that of the others."""
    if sliding_window is None:
        return "full"
    return f"{sliding_window} tokens" + (" in sliding layers" if num_full_layers else "")


def count_full_attention(config: ModelConfig) -> int:
    """Layers that attend to the whole context."""
    return config.layer_types.count(LayerKind.FULL_ATTENTION)


def kv_text(bytes_per_token: int, kv_dtype: str, state_bytes: int) -> str:
    """What a token costs, and what a sequence costs beside its tokens: the states of its convolutions, if any."""
    states = f" + {size_text(state_bytes)} per sequence" if state_bytes else ""
    return f"{size_text(bytes_per_token)} ({kv_dtype}){states}"


def size_text(num_bytes: int) -> str:
    """Bytes in the largest unit that keeps a number of 1 or more; one decimal where there is one."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{_one_decimal(size)} {unit}"
        size /= 1024
    return f"{_one_decimal(size)} GiB"


def _one_decimal(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
