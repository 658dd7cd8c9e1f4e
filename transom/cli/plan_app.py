"""The commands `transom plan` and `transom doctor` and their flags. Imports nothing heavy, as `app`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from transom.cli import options
from transom.cli.failure import told_in_one_line
from transom.cli.flag_names import in_flags
from transom.cli.options import ModelOptions
from transom.cli.sizes import mebibytes

_Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def add_plan_commands(app: typer.Typer) -> None:
    """Registers both."""
    app.command()(plan)
    app.command()(doctor)


def plan(
    model: Annotated[
        str, typer.Argument(help="Hugging Face directory, GGUF file, config.json, or the id of a bundled model.")
    ],
    ctx: Annotated[
        int | None,
        typer.Option("--ctx", "-c", min=1, help="Tokens of a request [the context window].", show_default=False),
    ] = None,
    ram: Annotated[
        int | None,
        typer.Option("--ram", parser=mebibytes, metavar="<size>", help="For the whole process: 8GiB, 8192MiB, or MiB."),
    ] = None,
    ssd: Annotated[
        int | None, typer.Option("--ssd", parser=mebibytes, metavar="<size>", help="For KV on SSD [none].")
    ] = None,
    ssd_path: options.SSDPath = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", "-np", min=1, max=4096, help="Requests of --ctx tokens at once [1].")
    ] = None,
    kv_dtype: options.KVCacheDtype = None,
    quantization: options.WeightQuantization = None,
    threads: options.Threads = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Say how fast it will be, too.")] = True,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine again.")] = False,
    as_json: _Json = False,
) -> None:
    """Say what a model would take and hold, before it is loaded. Exit code 1 if --ctx and --parallel do not fit."""
    model_options = ModelOptions(
        model=model,
        max_ssd_mb=ssd,
        ssd_path=ssd_path,
        kv_cache_dtype=kv_dtype,
        quantization=quantization,
        threads=threads,
    )
    with told_in_one_line(partial(in_flags, options=model_options)):
        from transom.cli.plan import PlanWish
        from transom.cli.plan_view import show_plan

        wish = PlanWish(model_options, ctx, ram, parallel, measures_speed=speed, measures_again=measure)
        show_plan(wish, as_json=as_json)


def doctor(
    path: Annotated[
        Path,
        typer.Option(
            parser=options.directory, metavar="<path>", help="Where KV on SSD would be [here].", show_default=False
        ),
    ] = Path(),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the server would listen on.")] = 9632,
    as_json: _Json = False,
) -> None:
    """Look whether this machine is fit to serve. Takes seconds; exit code 1 if something keeps it from that."""
    with told_in_one_line():
        from transom.cli.doctor import show_doctor

        show_doctor(path, port, as_json=as_json)
