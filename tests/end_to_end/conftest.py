"""One server with the bundled models for all end-to-end tests that do not harm it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running_server import RunningServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer.start(log=tmp_path_factory.mktemp("server") / "log.txt")
    yield running
    assert running.stop() == 0
