"""Sizes as people write them: `8GiB`, `8G`, `8192MiB`, or a plain number of MiB as in the registry file."""

from __future__ import annotations

import re

import typer

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(|[mgt](?:i?b)?)", re.IGNORECASE | re.ASCII)
_MIB_OF = {"": 1, "m": 1, "g": 2**10, "t": 2**20}
_MOST_MIB = 2**30


def mebibytes(text: str) -> int:
    """Whole MiB; all units are powers of 1024, whichever way they are spelled. typer.BadParameter."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; write 8GiB, 8192MiB, or a number of MiB")
    mib = float(match[1]) * _MIB_OF[match[2][:1].lower()]
    if mib != int(mib) or not 1 <= mib <= _MOST_MIB:
        raise typer.BadParameter(f"{text!r} must be whole MiB, from 1 to {_MOST_MIB}")
    return int(mib)
