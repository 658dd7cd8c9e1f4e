"""What an operator decides about the HTTP face. Plain data; where it came from is the command line's business."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from transom.config.registry_config import DEFAULT_MAX_WAITING_PER_KEY
from transom.errors import ConfigError

DEFAULT_PORT = 9632
_LOOPBACK_NAMES = frozenset({"localhost"})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of one server. Times in seconds.

    `api_keys`, and those of `api_keys_file`, are accepted in `Authorization: Bearer` and `X-Api-Key`; without any and
    without a file everybody on this machine may ask.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    api_keys: tuple[str, ...] = ()
    """The operator's own: they may do everything."""
    api_keys_file: Path | None = None
    """Keys of tenants; see `transom.config.keys_file`."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, beside the loopback ones and `host`, under which browsers and clients may address this server."""
    default_model: str | None = None
    """Fills an absent `model`; without it that is refused where several models are served."""
    max_output_tokens: int | None = None
    """Clips `max_tokens` of every request."""
    allow_unknown_fields: bool = False
    has_page: bool = True
    """The web page is served at `/`."""
    allow_prompt_logprobs: bool = False
    """`prompt_logprobs` of a request; `echo` with `logprobs` needs no leave."""
    ping_interval: float = 10.0
    """Between keep-alive comments of a silent event stream."""
    slow_reader_timeout: float = 60.0
    """A client that takes nothing for so long is cut off."""
    header_timeout: float = 10.0
    request_timeout: float | None = None
    """An answer that is not complete by then is ended (408). None: it may take as long as it takes."""
    max_waiting_per_key: int = DEFAULT_MAX_WAITING_PER_KEY
    """Requests of one key that may wait for their turn at one model; more are refused (429)."""
    drain_timeout: float = 30.0
    """Running answers get so long to finish when the server is told to stop."""

    @property
    def needs_key(self) -> bool:
        """Requests must carry a key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    def check_bind(self) -> None:
        """Raises `ConfigError` for a public address without a key."""
        if self.needs_key or is_loopback(self.host):
            return
        raise ConfigError(
            f"host {self.host} is reachable from other machines: set an API key (--api-key, or server.api_keys_file), "
            "or bind to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine to itself only."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    address = as_address(host)
    return address is not None and address.is_loopback


def as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """`host` as an IP address, brackets or not; None when it is a name."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
