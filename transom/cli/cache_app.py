"""The group of commands `transom cache` and its flags. Imports nothing heavy, as `app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transom.cli import options
from transom.cli.failure import told_in_one_line

cache_app = typer.Typer(help="See, check and empty the cold tier.", no_args_is_help=True, rich_markup_mode=None)

_Model = Annotated[str | None, typer.Argument(help="Id of one model; nothing: all of them.", show_default=False)]
_Directory = Annotated[
    Path | None,
    typer.Option(
        "--ssd-path",
        parser=options.directory,
        metavar="<path>",
        envvar="TRANSOM_SSD_PATH",
        help="Directory of cold tiers, instead of a registry's.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@cache_app.command()
def stats(
    model: _Model = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="TRANSOM_URL", help="The running server [that of --config, or port 9632].", show_default=False
        ),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="TRANSOM_API_KEY", help="Its key.")] = None,
    config: options.Config = None,
    ssd_path: _Directory = None,
    as_json: _Json = False,
) -> None:
    """Show both tiers and the running requests. Without a running server, what lies in the directories."""
    with told_in_one_line():
        from transom.cli.cache import show_stats
        from transom.cli.server_client import ServerClient
        from transom.cli.sources import server_url

        show_stats(ServerClient(url or server_url(config), api_key), config, ssd_path, model, as_json=as_json)


@cache_app.command()
def verify(
    model: _Model = None,
    config: options.Config = None,
    ssd_path: _Directory = None,
    as_json: _Json = False,
) -> None:
    """Check what servers left. Format, sizes, modes, records, published blocks; exit code 1 if anything is wrong."""
    with told_in_one_line():
        from transom.cli.cache import verify_all
        from transom.cli.cold_places import find_places

        verify_all(find_places(config, ssd_path, model), as_json=as_json)


@cache_app.command()
def purge(
    model: _Model = None,
    tenant: Annotated[
        str | None,
        typer.Option(help="Only what was computed for this tenant; nothing: everything.", show_default=False),
    ] = None,
    config: options.Config = None,
    ssd_path: _Directory = None,
    leftovers: Annotated[
        bool, typer.Option("--leftovers", help="Instead: what models that --config no longer names have left.")
    ] = False,
) -> None:
    """Remove what servers left for their next run. Of models that no server uses."""
    with told_in_one_line():
        from transom.cli.cache import purge_all, remove_leftovers
        from transom.cli.cold_places import find_leftovers, find_places
        from transom.errors import ConfigError

        if leftovers:
            if config is None or (model, ssd_path, tenant) != (None, None, None):
                raise ConfigError("--leftovers needs --config FILE, and neither a model nor --ssd-path nor --tenant")
            remove_leftovers(find_leftovers(config))
            return
        purge_all(find_places(config, ssd_path, model), tenant)
