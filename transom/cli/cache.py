"""`transom cache stats | verify | purge`: what the commands print and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from transom.cli.banner import size_text, wide_console
from transom.cli.cold_places import ColdContent, ColdPlace, find_leftovers, find_places, inspect, purge, remove
from transom.cli.failure import EXIT_FAILED, say
from transom.cli.server_client import NoServerError, ServerClient
from transom.cli.tables import plain_table

_DISK_HEADINGS = ("ON DISK", "READ", "WRITTEN", "STALLED", "BAD READS", "ERRORS")
_NOWHERE = "No cold tier is known here; --ssd-path DIRECTORY or --config FILE say where a server has one."


def show_stats(
    client: ServerClient, config: Path | None, ssd_path: Path | None, model: str | None, *, as_json: bool
) -> None:
    """As the running server says or, where none runs, as the directories show."""
    leftovers = [inspect(place) for place in find_leftovers(config)] if ssd_path is None and model is None else []
    try:
        _show_server(client, model, leftovers, as_json=as_json)
    except NoServerError as error:
        say(f"{error}; this is what lies in the directories")
        contents = [inspect(place) for place in find_places(config, ssd_path, model)]
        _show_directories(contents, leftovers, as_json=as_json)


def verify_all(places: Sequence[ColdPlace], *, as_json: bool) -> None:
    """One line for each problem on standard error, and exit code 1 if there is any."""
    contents = [inspect(place, read_blocks=True) for place in places]
    _show_directories(contents, [], as_json=as_json)
    for content in contents:
        if content.in_use:
            say(f"{content.place.model}: a server uses it, so its blocks were not read")
    problems = [problem for content in contents for problem in content.problems]
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(EXIT_FAILED)


def purge_all(places: Sequence[ColdPlace], tenant: str | None = None) -> None:
    """Raises `ConfigError` at the first one that is in use; those before it are empty then."""
    if not places:
        print(_NOWHERE)
    for place in places:
        print(f"{place.model}: {size_text(purge(place, tenant))} given back ({place.directory})")


def remove_leftovers(places: Sequence[ColdPlace]) -> None:
    """What models that are no longer served have left, with their directories."""
    if not places:
        print("Nothing is left of models that are no longer served.")
    for place in places:
        print(f"{place.model}: {size_text(remove(place))} given back ({place.directory})")


def _show_server(client: ServerClient, model: str | None, leftovers: Sequence[ColdContent], *, as_json: bool) -> None:
    answers = [client.cache(each) for each in ([model] if model else client.loaded_model_ids())]
    if as_json:
        print(json.dumps([*answers, *map(_plain_leftover, leftovers)], indent=2))
        return
    console = wide_console()
    console.print(_tier_table(answers))
    if any(answer["requests"] for answer in answers):
        console.print()
        console.print(_request_table(answers))
    _show_leftovers(leftovers)


def _show_directories(contents: Sequence[ColdContent], leftovers: Sequence[ColdContent], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([*map(_plain, contents), *map(_plain_leftover, leftovers)], indent=2))
        return
    if contents:
        wide_console().print(_directory_table(contents))
    elif not leftovers:
        print(_NOWHERE)
    _show_leftovers(leftovers)


def _show_leftovers(leftovers: Sequence[ColdContent]) -> None:
    if not leftovers:
        return
    num_bytes = sum(content.physical_bytes for content in leftovers)
    print(f"\nLeft by models that are no longer served, {size_text(num_bytes)} (transom cache purge --leftovers):")
    wide_console().print(_directory_table(leftovers))


def _plain_leftover(content: ColdContent) -> dict[str, Any]:
    return {"object": "cache.leftover", **_plain(content)}


def _plain(content: ColdContent) -> dict[str, Any]:
    plain = asdict(replace(content, published=None))
    place, published = plain.pop("place"), content.published
    plain["published"] = published and {
        "blocks": len(published.records),
        "tenants": published.num_tenants,
        "damaged": published.num_damaged,
    }
    return {**place, "directory": str(content.place.directory), **plain}


_NO_DISK = ["-"] * len(_DISK_HEADINGS)


def _tier_table(answers: Iterable[dict[str, Any]]) -> Table:
    table = plain_table("MODEL", "STRATEGY", "TIER", "STATE", "USED", "REUSE", "OF", *_DISK_HEADINGS)
    for answer in answers:
        for tier in answer["tiers"]:
            table.add_row(
                answer["model"],
                answer["cache"]["strategy"],
                tier["name"],
                tier["state"],
                size_text(tier["used_bytes"]),
                size_text(tier["reuse_bytes"]),
                size_text(tier["total_bytes"]),
                *(_disk_cells(tier) if tier["name"] == "cold" else _NO_DISK),
            )
        if states := answer.get("conv_states"):
            sizes = size_text(states["used_bytes"]), "-", size_text(states["total_bytes"])
            table.add_row(answer["model"], "-", "conv states", "-", *sizes, *_NO_DISK)
    return table


def _disk_cells(tier: dict[str, Any]) -> list[str]:
    """What only a tier on disk has."""
    return [
        size_text(tier["physical_bytes"]),
        size_text(tier["read_bytes"]),
        size_text(tier["written_bytes"]),
        f"{tier['stall_seconds']:.1f} s",
        str(tier["checksum_failures"]),
        str(tier["read_errors"] + tier["write_errors"]),
    ]


def _request_table(answers: Iterable[dict[str, Any]]) -> Table:
    table = plain_table("REQUEST", "MODEL", "STRATEGY", "TOKENS", "HOT", "COLD", "EVICTED")
    for answer in answers:
        for request in answer["requests"]:
            numbers = (str(request[key]) for key in ("tokens", "hot_tokens", "cold_tokens", "evicted_tokens"))
            table.add_row(request["request_id"], answer["model"], request["strategy"], *numbers)
    return table


def _directory_table(contents: Iterable[ColdContent]) -> Table:
    table = plain_table("MODEL", "ON DISK", "OF", "COLD FILES", "BLOCKS", "TENANTS", "IN USE", "SOUND", "DIRECTORY")
    for content in contents:
        place = content.place
        table.add_row(
            place.model,
            size_text(content.physical_bytes),
            "-" if place.max_bytes is None else size_text(place.max_bytes),
            str(len(content.cold_files)),
            "-" if content.published is None else str(len(content.published.records)),
            "-" if content.published is None else str(content.published.num_tenants),
            "yes" if content.in_use else "no",
            "no" if content.problems else "yes",
            str(place.directory) if content.exists else f"{place.directory} (not made yet)",
        )
    return table
