"""The group of commands `transom keys` and its flags. Imports nothing heavy, as `app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transom.cli import options
from transom.cli.failure import told_in_one_line

keys_app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)

_File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="<path>",
        envvar="TRANSOM_API_KEYS_FILE",
        help="The keys file, instead of a registry's server.api_keys_file.",
    ),
]
_Name = Annotated[str, typer.Argument(help="Name of the key, in lists and logs.")]
_Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@keys_app.command()
def create(
    name: _Name,
    tenant: Annotated[str | None, typer.Option(help="Whose key it is; shares cached prefixes [NAME].")] = None,
    tier: Annotated[str | None, typer.Option(help="Which of quota_tiers holds for it [default].")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model that it may use; repeatable [all models].")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May see /metrics and where each model's KV is.")] = False,
    file: _File = None,
    config: options.Config = None,
) -> None:
    """Make a key and print it, this once. The file holds only its digest. A running server takes it within a second."""
    with told_in_one_line():
        from transom.cli.keys import KeyChoice, create_key, keys_place

        choice = KeyChoice(name, tenant or name, tier, tuple(model or ()) or None, admin)
        create_key(keys_place(file, config), choice)


@keys_app.command("list")
def list_command(file: _File = None, config: options.Config = None, as_json: _Json = False) -> None:
    """List the keys. Names, tenants, tiers, models; the keys themselves are nowhere."""
    with told_in_one_line():
        from transom.cli.keys import keys_place, list_keys

        list_keys(keys_place(file, config), as_json=as_json)


@keys_app.command()
def revoke(name: _Name, file: _File = None, config: options.Config = None) -> None:
    """Remove a key. A running server refuses it within a second; requests that it has begun go on."""
    with told_in_one_line():
        from transom.cli.keys import keys_place, revoke_key

        revoke_key(keys_place(file, config), name)
