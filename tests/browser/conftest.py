"""The page in a real browser. Needs playwright, axe-core and a chromium of the system: `make browser` says what is
missing. Without them the suite says so in one skipped test."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
PACKAGES = ("playwright", "axe_playwright_python")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None] + ([] if CHROMIUM else ["chromium"])

collect_ignore_glob = ["test_chat.py", "test_windows.py"] if MISSING else []


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program."""
    assert CHROMIUM is not None
    return CHROMIUM


@pytest.fixture(scope="session")
def missing() -> list[str]:
    """What of all this is not there."""
    return MISSING
