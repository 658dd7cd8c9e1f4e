"""The commands for a running server's operator, and their flags. Imports nothing heavy, as `app`."""

from __future__ import annotations

from typing import Annotated

import typer

from transom.cli import options
from transom.cli.failure import told_in_one_line

_Model = Annotated[str, typer.Argument(help="Id or alias of the model.")]
_Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def ps(socket: options.AdminSocket = None, config: options.Config = None, as_json: _Json = False) -> None:
    """Show which models of a server are in RAM. Who uses them, and since when nobody does."""
    with told_in_one_line():
        from transom.cli.admin import client_of, show_models

        show_models(client_of(socket, config), as_json=as_json)


def load(model: _Model, socket: options.AdminSocket = None, config: options.Config = None) -> None:
    """Load a model of a running server. Waits until it is ready; a model that has failed is tried again."""
    with told_in_one_line():
        from transom.cli.admin import client_of, load_model

        load_model(client_of(socket, config), model)


def unload(model: _Model, socket: options.AdminSocket = None, config: options.Config = None) -> None:
    """Unload a model of a running server. Waits until its requests have ended; the next one loads it again."""
    with told_in_one_line():
        from transom.cli.admin import client_of, unload_model

        unload_model(client_of(socket, config), model)


def drain(socket: options.AdminSocket = None, config: options.Config = None) -> None:
    """End a running server as SIGTERM does. Nothing new is taken, running answers may finish."""
    with told_in_one_line():
        from transom.cli.admin import client_of, drain_server

        drain_server(client_of(socket, config))


def add_admin_commands(app: typer.Typer) -> None:
    """They stand beside `serve`, not below a word of their own."""
    for command in (ps, load, unload, drain):
        app.command()(command)
