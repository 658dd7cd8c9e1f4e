"""The page in a real browser. Needs playwright, axe-core and a chromium of the system: `make browser` says what is
missing. Without them there is nothing to test, which the suite says in one line."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
PACKAGES = ("playwright", "axe_playwright_python")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None] + ([] if CHROMIUM else ["chromium"])

collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    """In the output of the whole suite, too."""
    return f"the page's tests are left out: no {', no '.join(MISSING)} (see make browser)" if MISSING else None


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program."""
    assert CHROMIUM is not None
    return CHROMIUM
