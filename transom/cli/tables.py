"""How the commands print tables."""

from __future__ import annotations

from rich.table import Table


def plain_table(*headings: str) -> Table:
    """A table without lines, whose cells are never cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table
