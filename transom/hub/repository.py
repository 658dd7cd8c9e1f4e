"""`Hub`: the HTTP interface of a Hugging Face hub, as far as fetching needs it. The only one that speaks to it.

A token belongs to the hub's own scheme, host and port; where a redirect leads elsewhere, it is not sent. No redirect
leads from https to http. Lengths that the hub names are bounds, never allocations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx2

from transom.errors import ConfigError, HubError
from transom.hub.file_choice import HubFile
from transom.hub.model_reference import ModelReference

DEFAULT_ENDPOINT = "https://huggingface.co"

_MAX_LISTING_BYTES = 32 * 2**20
_MAX_REDIRECTS = 5
_MAX_REASON = 300
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_PRINTABLE = re.compile(r"[^\x20-\x7e]+")


class DroppedError(HubError):
    """The connection broke, or the hub has no time at the moment: the same request may succeed later."""


class Hub:
    """One hub. Blocks; for use from one thread. `close` it at the end."""

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, token: str | None = None) -> None:
        """Raises `ConfigError` for an address that is none, or a token that cannot be sent."""
        if not _is_address_of_a_hub(endpoint):
            raise ConfigError(f"HF_ENDPOINT {endpoint!r} is not the address of a hub, such as {DEFAULT_ENDPOINT}")
        if token is not None and (not token.isascii() or not token.isprintable() or " " in token):
            raise ConfigError("HF_TOKEN has characters that no token has")
        self.endpoint = endpoint.rstrip("/")
        self._origin = _origin(endpoint)
        self._token = token
        self._client = httpx2.Client(timeout=_TIMEOUT, follow_redirects=False, headers={"accept-encoding": "identity"})

    def close(self) -> None:
        """Closes connections."""
        self._client.close()

    def list_files(self, reference: ModelReference) -> tuple[str, list[HubFile]]:
        """The commit that a revision means now, and its files. Raises `HubError` with the reason in one line."""
        path = f"{quote(reference.repository)}/revision/{quote(reference.revision, safe='')}"
        with self._get(f"{self.endpoint}/api/models/{path}?blobs=true", {}) as response:
            self._check(response, reference)
            text = b"".join(_bounded(_pieces(response), _MAX_LISTING_BYTES, "The list of files"))
        try:
            listing = json.loads(text)
            commit, siblings = listing["sha"], listing["siblings"]
            files = [_hub_file(each) for each in siblings]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise HubError(f"{self.endpoint} does not answer as a Hugging Face hub does") from None
        if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
            raise HubError(f"{self.endpoint} names no commit of {reference.repository}")
        return commit, files

    @contextmanager
    def reading(self, reference: ModelReference, commit: str, file: HubFile, start: int) -> Generator[FileStream]:
        """The bytes of a file from `start` on, or from the beginning where the hub cannot do otherwise.

        Raises `DroppedError` when the connection breaks, also while it is read; `HubError` for an answer that does not
        fit the file's size.
        """
        url = f"{self.endpoint}/{quote(reference.repository)}/resolve/{commit}/{quote(file.path)}"
        headers = {"range": f"bytes={start}-"} if start else {}
        with self._get(url, headers) as response:
            self._check(response, reference)
            first = _first_byte(response, start, file)
            length = response.headers.get("content-length", str(file.size - first))
            if length != str(file.size - first):
                raise HubError(f"{file.path} has {file.size} bytes, and the hub wants to send {length[:32]}")
            yield FileStream(first, _bounded(_pieces(response), file.size - first, file.path))

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Generator[httpx2.Response]:
        """The answer behind all redirects."""
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                request = self._client.build_request("GET", url, headers={**headers, **self._credentials(url)})
                response = self._client.send(request, stream=True)
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                raise DroppedError(f"{_site(url)} cannot be reached: {error}") from error
            try:
                if not response.has_redirect_location:
                    yield response
                    return
                url = _redirected(url, response.headers["location"])
            finally:
                response.close()
        raise HubError(f"{self.endpoint} redirects again and again")

    def _credentials(self, url: str) -> dict[str, str]:
        if self._token is None or _origin(url) != self._origin:
            return {}
        return {"authorization": f"Bearer {self._token}"}

    def _check(self, response: httpx2.Response, reference: ModelReference) -> None:
        """Raises the reason of a refusal in words that say what to do."""
        status, code = response.status_code, response.headers.get("x-error-code", "")
        if status in (200, 206):
            return
        page, token = f"{self.endpoint}/{reference.repository}", "HF_TOKEN"
        if code == "GatedRepo" or status == 403:
            how = "with the account of HF_TOKEN" if self._token else "and set HF_TOKEN"
            raise HubError(f"{reference.repository} is gated: accept its terms at {page}, {how}{_reason(response)}")
        if status == 401 and self._token is None:
            raise HubError(f"the hub has no public model {reference.repository}; for a private one set {token}")
        if status == 401:
            raise HubError(f"the hub does not accept {token} for {reference.repository}{_reason(response)}")
        if status == 404 and code in ("RevisionNotFound", "EntryNotFound"):
            missing = reference.revision if code == "RevisionNotFound" else "file of that name"
            raise HubError(f"{reference.repository} has no {missing} on {self.endpoint}")
        if status == 404:
            raise HubError(f"{self.endpoint} has no model {reference.repository}")
        if status == 429 or status >= 500:
            raise DroppedError(f"{_site(str(response.url))} answered {status}{_reason(response)}")
        raise HubError(f"{_site(str(response.url))} answered {status}{_reason(response)}")


class FileStream:
    """What comes of a file: pieces, the first of which begins at byte `start`."""

    def __init__(self, start: int, pieces: Iterator[bytes]) -> None:
        self.start = start
        self.pieces = pieces


def _first_byte(response: httpx2.Response, start: int, file: HubFile) -> int:
    """Where the body begins: at `start` if the hub went along with that."""
    if response.status_code == 200:
        return 0
    if response.headers.get("content-range", "") != f"bytes {start}-{file.size - 1}/{file.size}":
        raise HubError(f"the hub sends another part of {file.path} than it was asked for, or of another file")
    return start


def _pieces(response: httpx2.Response) -> Iterator[bytes]:
    """As they come: whole pieces of some size would be gathered, and lost when the connection breaks."""
    try:
        yield from response.iter_raw()
    except httpx2.TransportError as error:
        raise DroppedError(f"the connection to {_site(str(response.url))} broke: {error}") from error


def _bounded(pieces: Iterator[bytes], most: int, name: str) -> Iterator[bytes]:
    """No byte more than was announced reaches the disk or the memory."""
    left = most
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise HubError(f"{name} is longer than the {most} bytes that it may have")
        yield piece


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        schemes = _origin(url)[0], _origin(target)[0]
    except ValueError:
        raise HubError(f"{_site(url)} redirects to {_printable(location)}, which is no address") from None
    if schemes[1] != "https" and schemes != ("http", "http"):
        raise HubError(f"{_site(url)} redirects to {_printable(target)}, which is not safe to follow")
    return target


def _hub_file(sibling: dict[str, Any]) -> HubFile:
    large = sibling.get("lfs") or {}
    size = large.get("size", sibling.get("size"))
    if type(size) is not int or size < 0:
        raise TypeError(size)
    return HubFile(
        str(sibling["rfilename"]), size, _digest(_SHA256, large.get("sha256")), _digest(_COMMIT, sibling.get("blobId"))
    )


def _digest(form: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and form.fullmatch(value) else None


def _is_address_of_a_hub(endpoint: str) -> bool:
    try:
        address = urlsplit(endpoint)
        _ = address.port
    except ValueError:
        return False
    return address.scheme in ("http", "https") and bool(address.hostname) and not (address.query or address.fragment)


def _origin(url: str) -> tuple[str, str | None, int]:
    address = urlsplit(url)
    return address.scheme, address.hostname, address.port or (443 if address.scheme == "https" else 80)


def _site(url: str) -> str:
    return _printable(urlsplit(url).netloc.rpartition("@")[2])


def _reason(response: httpx2.Response) -> str:
    """The hub's own words, made harmless."""
    words = _printable(response.headers.get("x-error-message", ""))[:_MAX_REASON].strip()
    return f" ({words})" if words else ""


def _printable(text: str) -> str:
    return _PRINTABLE.sub(" ", text)[:_MAX_REASON]
