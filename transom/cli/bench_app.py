"""The command `transom bench` and its flags. Imports nothing heavy, as `app`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from transom.cli import options
from transom.cli.failure import told_in_one_line
from transom.cli.flag_names import in_flags
from transom.cli.options import ModelOptions
from transom.request import CacheStrategy

_LEAST_SIZE = 2**20
_UNITS = {"": 2**20, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "K": 2**10, "M": 2**20, "G": 2**30}


def _size(text: str) -> int:
    """Bytes of `64MiB`, `1.5GiB`; a bare number is MiB, as elsewhere."""
    digits = text.strip().rstrip("BKMGIbkmgi")
    unit = text.strip()[len(digits) :].upper()
    try:
        size = round(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no size such as 64MiB or 2GiB") from None
    if size < _LEAST_SIZE:
        raise typer.BadParameter(f"{text!r} is less than 1 MiB")
    return size


def _depths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--depths {text}: must be numbers of tokens with commas between them") from None


def _strategies(text: str) -> tuple[CacheStrategy, ...]:
    try:
        return tuple(CacheStrategy(part.strip()) for part in text.split(","))
    except ValueError:
        names = ", ".join(CacheStrategy)
        raise typer.BadParameter(f"--strategies {text}: must be some of {names}, with commas between them") from None


def bench(
    model: Annotated[str, typer.Argument(help="Hugging Face directory, GGUF file, or the id of a bundled model.")],
    depths: Annotated[
        str | None,
        typer.Option(help="Tokens of context, with commas between them [0, 1024, and so on by 4, as time allows]."),
    ] = None,
    strategies: Annotated[str, typer.Option(help="Cache strategies, with commas between them.")] = "full",
    ram: Annotated[
        int | None,
        typer.Option(
            parser=_size, metavar="<size>", help="KV in RAM beside SSD, as 64MiB [a quarter of the deepest point's]."
        ),
    ] = None,
    ssd: Annotated[
        int | None,
        typer.Option(parser=_size, metavar="<size>", help="Measure RAM + SSD, too, with so much on SSD [RAM alone]."),
    ] = None,
    ssd_path: Annotated[
        Path | None,
        typer.Option(parser=options.directory, metavar="<path>", help="Where KV on SSD lies meanwhile [/var/tmp]."),
    ] = None,
    prefill: Annotated[int | None, typer.Option(min=1, help="Tokens of the timed prefill [512].")] = None,
    decode: Annotated[int | None, typer.Option(min=1, help="Tokens of the timed decode [32].")] = None,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Rounds at each depth; medians count.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="<file>", help="Write the report as JSON, too.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="<file.svg|png>", help="Draw the report; needs transom[plot].")
    ] = None,
    max_model_len: options.MaxModelLen = None,
    sliding_window: options.SlidingWindow = None,
    kv_cache_dtype: options.KVCacheDtype = None,
    window_size: options.WindowSize = None,
    keep_first: options.KeepFirst = None,
    quantization: options.WeightQuantization = None,
    threads: options.Threads = None,
) -> None:
    """Measure prefill and decode by depth. RAM against RAM + SSD, by cache strategy, beside the memory's limit."""
    model_options = ModelOptions(
        model=model,
        max_model_len=max_model_len,
        sliding_window=sliding_window,
        kv_cache_dtype=kv_cache_dtype,
        window_size=window_size,
        keep_first=keep_first,
        quantization=quantization,
        threads=threads,
    )
    wanted_depths, wanted_strategies = _depths(depths), _strategies(strategies)
    with told_in_one_line(partial(_reworded, options=model_options)):
        from transom.cli.bench.run import run_benchmark
        from transom.cli.bench.settings import BenchSettings

        settings = BenchSettings(
            depths=wanted_depths,
            strategies=wanted_strategies,
            num_prefill_tokens=prefill,
            num_decode_tokens=decode,
            num_rounds=repeat,
            ram_bytes=ram,
            ssd_bytes=ssd or 0,
            ssd_path=ssd_path,
            as_json=as_json,
            json_path=output,
            plot_path=plot,
        )
        run_benchmark(model_options, settings)


def _reworded(message: str, options: ModelOptions) -> str:
    """Budgets are set by flags of this command alone."""
    words = in_flags(message, options).replace(" or lower max_tokens", "").replace("; shorten the input", "")
    return words.replace("kv_cache_ram_mb", "--ram").replace("max_ssd_mb", "--ssd")
