"""A server whose address somebody typed: the address may be none, and what answers there may be something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import SplitResult, urlsplit

from transom.errors import ConfigError, UnavailableError


def server_address(url: str, name: str = "") -> SplitResult:
    """The parts of an address over HTTP; `name`: who gave it. Raises `ConfigError`."""
    try:
        address = urlsplit(url)
        is_address = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        is_address = False
    if not is_address or not url.isprintable() or " " in url:
        raise ConfigError(f"{name} {url} is not the address of a server, such as http://127.0.0.1:9632".lstrip())
    return address


@contextmanager
def of_this_program(url: str) -> Iterator[None]:
    """An answer in which something is missing, or is of another kind, raises `UnavailableError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnavailableError(f"{url} is not a server of this program") from error
