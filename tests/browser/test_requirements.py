"""Stands for the others where they cannot run."""

from __future__ import annotations

import pytest


def test_there_is_a_browser_to_test_the_page_in(missing: list[str]) -> None:
    if missing:
        pytest.skip(f"the page is not tested in a browser: no {', no '.join(missing)}; `make browser` says more")
