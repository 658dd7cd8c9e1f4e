"""Asks the operator's socket of a running server, over HTTP. Knows no engine."""

from __future__ import annotations

import json
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from transom.errors import TransomError


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket; waits for an answer as long as it takes."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


class AdminClient:
    """One server. Every call is a connection of its own; raises `TransomError` with the server's own words."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def models(self) -> list[dict[str, Any]]:
        """All models, as they are now."""
        models: list[dict[str, Any]] = self._ask("GET", "/models")["models"]
        return models

    def quotas(self) -> list[dict[str, Any]]:
        """What the keys have used and hold now."""
        uses: list[dict[str, Any]] = self._ask("GET", "/quotas")["uses"]
        return uses

    def load(self, model: str) -> None:
        """Returns when the model is loaded."""
        self._ask("POST", f"/models/{quote(model)}/load")

    def unload(self, model: str) -> None:
        """Returns when the model's requests have ended and its process is gone."""
        self._ask("POST", f"/models/{quote(model)}/unload")

    def drain(self) -> int:
        """The server ends when its requests have; how many these are."""
        return int(self._ask("POST", "/drain")["num_running"])

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (FileNotFoundError, ConnectionRefusedError):
            raise TransomError(f"no server listens on {self._path}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise TransomError(f"{self._path} cannot be asked: {error}") from error
        finally:
            connection.close()
        if not isinstance(answer, dict) or response.status >= 400:
            raise TransomError(_words(answer))
        return answer


def _words(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("message")) if isinstance(error, dict) else "the answer is not that of this program"
