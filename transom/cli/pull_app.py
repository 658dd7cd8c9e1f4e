"""`transom pull` and its flags. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from transom.cli.failure import told_in_one_line

Model = Annotated[
    str,
    typer.Argument(
        metavar="OWNER/NAME[:QUANT|/FILE]",
        help="A model of the hub; of its GGUF files the one of this type [Q4_K_M], or the named one.",
    ),
]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit.")]
Name = Annotated[str | None, typer.Option(help="Name of the model here [that of the model or file].")]


def add_pull_command(app: typer.Typer) -> None:
    """`transom pull`."""

    @app.command()
    def pull(model: Model, revision: Revision = "main", name: Name = None) -> None:
        """Fetch a model from a Hugging Face hub: safetensors or GGUF, checked byte for byte.

        HF_ENDPOINT names another hub, HF_TOKEN opens private and gated models, TRANSOM_MODELS is where models lie. A
        pull that was stopped goes on where it was.
        """
        with told_in_one_line():
            from transom.cli.pull import pull_model

            pull_model(model, revision, name)
