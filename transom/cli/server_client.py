"""What `transom cache stats` asks a running server, over plain HTTP. Knows no engine."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote

from transom.cli.typed_server import of_this_program, server_address
from transom.errors import TransomError

_TIMEOUT_SECONDS = 10.0


class NoServerError(TransomError):
    """Nobody answers at the address."""


class ServerClient:
    """One server. Every call is a connection of its own and blocks for 10 s at most."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url
        self._address = server_address(url)
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    def loaded_model_ids(self) -> list[str]:
        """The ids of all models in RAM. Raises `NoServerError`, `TransomError` for any other answer."""
        with of_this_program(self.url):
            return [str(model["id"]) for model in self._get("/v1/models")["data"] if model["status"] == "loaded"]

    def cache(self, model: str) -> dict[str, Any]:
        """What GET /v1/models/{id}/cache says. Raises as `loaded_model_ids`."""
        return self._get(f"/v1/models/{quote(model)}/cache")

    def _get(self, path: str) -> dict[str, Any]:
        kind = HTTPSConnection if self._address.scheme == "https" else HTTPConnection
        connection = kind(str(self._address.hostname), self._address.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", self._address.path.rstrip("/") + path, headers=self._headers)
            response = connection.getresponse()
            return self._checked(response.status, response.read())
        except ConnectionRefusedError:
            raise NoServerError(f"no server answers at {self.url}") from None
        except (OSError, HTTPException) as error:
            raise TransomError(f"{self.url} cannot be asked: {error}") from error
        finally:
            connection.close()

    def _checked(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise TransomError(f"{self.url} is not a server of this program")
        if status != 200:
            with of_this_program(self.url):
                message = answer["error"]["message"]
            raise TransomError(f"{self.url} answered {status}: {message}")
        return answer
