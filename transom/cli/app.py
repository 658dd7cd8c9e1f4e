"""The commands and their flags. Imports nothing heavy: `--help` must not wait for numpy or the engine."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from transom.cli import options
from transom.cli.admin_app import add_admin_commands
from transom.cli.bench_app import bench
from transom.cli.cache_app import cache_app
from transom.cli.failure import told_in_one_line
from transom.cli.flag_names import in_flags
from transom.cli.keys_app import keys_app
from transom.cli.options import GgufRecipe, LogFormat, LogLevel, ModelOptions, ServeOptions
from transom.cli.plan_app import add_plan_commands
from transom.cli.pull_app import add_pull_command

app = typer.Typer(
    help="Serve language models on your own machine, each with its context window and budgets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.add_typer(cache_app, name="cache")
app.add_typer(keys_app, name="keys")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"transom {version('transom')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Serve language models on your own machine, each with its context window and budgets."""


@app.command()
def serve(
    context: typer.Context,
    model: options.Model = None,
    model_flag: options.ModelFlag = None,
    config: options.Config = None,
    host: options.Host = None,
    port: options.Port = None,
    served_model_name: options.ServedModelName = None,
    max_model_len: options.MaxModelLen = None,
    sliding_window: options.SlidingWindow = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    kv_cache_dtype: options.KVCacheDtype = None,
    kv_cache_ram_mb: options.KVCacheRam = None,
    max_ram_mb: options.MaxRam = None,
    max_ssd_mb: options.MaxSSD = None,
    ssd_path: options.SSDPath = None,
    hot_tokens: options.HotTokens = None,
    enable_prefix_cache: options.PrefixCache = None,
    cache_strategy: options.Strategy = None,
    window_size: options.WindowSize = None,
    keep_first: options.KeepFirst = None,
    max_draft_tokens: options.MaxDraftTokens = None,
    quantization: options.WeightQuantization = None,
    threads: options.Threads = None,
    api_key: options.ApiKeys = None,
    allowed_host: options.AllowedHosts = None,
    default_model: options.DefaultModel = None,
    max_output_tokens: options.MaxOutputTokens = None,
    allow_unknown_fields: options.AllowUnknownFields = False,
    page: options.Page = True,
    allow_prompt_logprobs: options.AllowPromptLogprobs = False,
    ping_interval: options.PingInterval = 10.0,
    shutdown_timeout: options.ShutdownTimeout = 30.0,
    admin_socket: options.AdminSocket = None,
    otlp_endpoint: options.OtlpEndpoint = None,
    log_level: options.Level = LogLevel.WARNING,
    log_format: options.Format = LogFormat.TEXT,
    print_config: options.PrintConfig = False,
) -> None:
    """Serve models over HTTP, as OpenAI does."""
    model_options = ModelOptions(
        model=model_flag if model is None else model,
        config=config,
        served_model_name=served_model_name,
        max_model_len=max_model_len,
        sliding_window=sliding_window,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        kv_cache_dtype=kv_cache_dtype,
        kv_cache_ram_mb=kv_cache_ram_mb,
        max_ram_mb=max_ram_mb,
        max_ssd_mb=max_ssd_mb,
        ssd_path=ssd_path,
        hot_tokens=hot_tokens,
        enable_prefix_cache=enable_prefix_cache,
        cache_strategy=cache_strategy,
        window_size=window_size,
        keep_first=keep_first,
        max_draft_tokens=max_draft_tokens,
        quantization=quantization,
        threads=threads,
    )
    serve_options = ServeOptions(
        host=host,
        port=port,
        api_keys=tuple(api_key or ()),
        allowed_hosts=tuple(allowed_host or ()),
        default_model=default_model,
        max_output_tokens=max_output_tokens,
        allow_unknown_fields=allow_unknown_fields,
        page=page,
        allow_prompt_logprobs=allow_prompt_logprobs,
        ping_interval=ping_interval,
        shutdown_timeout=shutdown_timeout,
        admin_socket=admin_socket and admin_socket.absolute(),
        otlp_endpoint=otlp_endpoint,
    )
    with told_in_one_line(partial(in_flags, options=model_options)):
        from transom.cli.serve import show_settings, start_server

        if print_config:
            show_settings(model_options, serve_options, _flags(context))
        else:
            start_server(model_options, serve_options, log_level.value, logs_json=log_format is LogFormat.JSON)


@app.command()
def run(
    model: Annotated[
        str, typer.Argument(help="Hugging Face directory, GGUF file, name of a bundled or pulled model; or a server's.")
    ],
    prompt: options.Prompt = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    seed: options.Seed = None,
    system: Annotated[str | None, typer.Option(help="System message of a chat [none].")] = None,
    complete: Annotated[bool, typer.Option(help="Continue the text, even if the model has a chat template.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line of figures after each answer of a chat.")] = False,
    history: options.History = True,
    server: options.Server = None,
    api_key: options.ServerKey = None,
    max_model_len: options.MaxModelLen = None,
    kv_cache_dtype: options.KVCacheDtype = None,
    kv_cache_ram_mb: options.KVCacheRam = None,
    max_ssd_mb: options.MaxSSD = None,
    ssd_path: options.SSDPath = None,
    hot_tokens: options.HotTokens = None,
    enable_prefix_cache: options.PrefixCache = None,
    cache_strategy: options.Strategy = None,
    window_size: options.WindowSize = None,
    keep_first: options.KeepFirst = None,
    max_draft_tokens: options.MaxDraftTokens = None,
    quantization: options.WeightQuantization = None,
    threads: options.Threads = None,
) -> None:
    """Complete a text or chat in the terminal, without a server. In a chat /help shows its commands."""
    model_options = ModelOptions(
        model=model,
        max_model_len=max_model_len,
        kv_cache_dtype=kv_cache_dtype,
        kv_cache_ram_mb=kv_cache_ram_mb,
        max_ssd_mb=max_ssd_mb,
        ssd_path=ssd_path,
        hot_tokens=hot_tokens,
        enable_prefix_cache=enable_prefix_cache,
        cache_strategy=cache_strategy,
        window_size=window_size,
        keep_first=keep_first,
        max_draft_tokens=max_draft_tokens,
        quantization=quantization,
        threads=threads,
    )
    with told_in_one_line(partial(in_flags, options=model_options)):
        from transom.cli.answers import AnswerSettings
        from transom.cli.run import RunOptions, run_in_terminal

        settings = AnswerSettings(max_tokens, temperature, top_p, top_k, min_p, seed)
        run_options = RunOptions(
            system=system, complete=complete, quiet=quiet, keeps_history=history, server=server, api_key=api_key
        )
        run_in_terminal(model_options, prompt, settings, run_options)


@app.command("list", hidden=True)
@app.command()
def models(
    config: options.Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List what can be served, with context windows and KV sizes."""
    with told_in_one_line():
        from transom.cli.models import list_models

        list_models(config, as_json=as_json)


@app.command()
def quota(
    key: Annotated[str | None, typer.Argument(help="Name of one key; nothing: all.", show_default=False)] = None,
    config: options.Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what each API key has used of its quotas. Beside a running server or without one."""
    with told_in_one_line():
        from transom.cli.quota import show_quotas

        show_quotas(config, key, as_json=as_json)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Directory of a Hugging Face model, or a GGUF file.")],
    target: Annotated[Path, typer.Argument(metavar="DST.gguf", help="The file to write.")],
    recipe: Annotated[
        GgufRecipe,
        typer.Option(
            "--type", case_sensitive=False, help="Type of the matrices; Q4_K_M: the usual mix of Q4_K and Q6_K."
        ),
    ],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that exists.")] = False,
    threads: options.Threads = None,
) -> None:
    """Write a model as one GGUF file, quantised if asked for."""
    with told_in_one_line():
        from transom.cli.convert import convert as write_model
        from transom.cli.sources import num_threads

        write_model(source, target, recipe.value, threads=num_threads(ModelOptions(threads=threads)), force=force)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="Hugging Face directory, GGUF file, or the id of a bundled model.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say whether a model can be served. What it is, too; exit code 1 if it cannot, with every reason."""
    with told_in_one_line():
        from transom.cli.check import show_check

        show_check(model, as_json=as_json)


app.command()(bench)
add_plan_commands(app)
add_admin_commands(app)
add_pull_command(app)

_SECRET = frozenset({"api_key"})


def _flags(context: typer.Context) -> dict[str, Any]:
    """Each flag's value and where it comes from: commandline, environment or default."""
    return {
        name: {"value": _shown(name, value), "origin": source.name.lower()}
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None
    }


def _shown(name: str, value: Any) -> Any:
    """A value as JSON has it; secrets by their number only."""
    if name in _SECRET:
        return f"{len(value or ())} given"
    return value if value is None or isinstance(value, bool | int | float | list) else str(value)
