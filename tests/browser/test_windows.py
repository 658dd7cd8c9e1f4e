"""The window view in a real browser, over a real server whose model has more tokens than RAM: what is drawn is what the
server says of the same moment."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

import transom
from tests.browser.pages import Watched, browsing, watched_page
from tests.running_server import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS = Path(transom.__file__).with_name("models_builtin")
FACT = " The secret code of Anna is 4711-falcon."
QUESTION = " The secret code of Anna is"
PROMPT = FACT + " Pierre saw the river in 1805." * 650 + QUESTION
BLOCK_SIZE = 64

COMPARE = (
    Path(__file__).with_name("compare_strip.js").read_text().partition("\n")[2].partition("\n")[2].rstrip().rstrip(";")
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`recall` with a fourth of what the prompt needs in RAM, and the rest on SSD."""
    directory = tmp_path_factory.mktemp("windows")
    tiers = {"kv_cache_ram_mb": 3, "max_ssd_mb": 32, "ssd_path": str(directory / "cold")}
    models: list[dict[str, Any]] = [{"id": "recall", "path": str(MODELS / "recall"), "tier_config": tiers}]
    models.append({"id": "tolstoy-window", "path": str(MODELS / "tolstoy"), "sliding_window": 256})
    config = directory / "config.json"
    config.write_text(json.dumps({"models": models}))
    running = RunningServer.start("--config", str(config), log=directory / "log.txt")
    yield running
    assert running.stop() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with browsing(chromium) as browser:
        yield browser


async def ask_long(watched: Watched, strategy: str) -> None:
    page = watched.page
    await watched.open()
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("Temperature").fill("0")
    await page.get_by_label("Max tokens").fill("6000")
    await page.get_by_label("Cache strategy").select_option(strategy)
    await page.get_by_role("button", name="Save").click()
    await watched.send(PROMPT)


def check(seen: dict[str, Any], strategy: str) -> None:
    """What one moment showed."""
    [request], layer = seen["cache"]["requests"], seen["cache"]["layers"][0]
    assert seen["id"] == request["request_id"]
    assert seen["cold"] * BLOCK_SIZE == request["cold_tokens"]
    assert seen["hot"] == -(-request["hot_tokens"] // BLOCK_SIZE)
    assert seen["hot"] + seen["cold"] == -(-request["tokens"] // BLOCK_SIZE)
    assert (seen["hot"] + seen["reserved"], seen["cold"]) == (layer["hot_blocks"], layer["cold_blocks"])
    assert seen["evicted"] == request["evicted_tokens"] == 0
    assert re.search(r"\d+ in RAM, .*\d+ on SSD", seen["said"])
    assert seen["gauges"] == [[tier["name"], tier["used_bytes"]] for tier in seen["cache"]["tiers"]]
    if strategy == "full":  # else bars of importance stand between the rows, too
        assert seen["drawn"]["cold"] == seen["cold"]
        assert seen["hot"] <= seen["drawn"]["hot"] <= seen["hot"] + seen["reserved"]


@pytest.mark.parametrize("strategy", ["full", "adaptive"])
async def test_the_strip_shows_the_blocks_that_the_server_counts(
    browser: Browser, server: RunningServer, strategy: str
) -> None:
    async with watched_page(browser, server.url) as watched:
        page = watched.page
        await ask_long(watched, strategy)
        await watched.go("#/windows")
        compared: list[dict[str, Any]] = await page.evaluate(COMPARE)
        assert len(compared) == 3
        for seen in compared:
            check(seen, strategy)
        await page.go_back()
        await expect(watched.answer).to_contain_text("4711-falcon", timeout=30_000)
        await page.get_by_role("button", name="Stop", exact=True).click()
        await watched.until_answered()


async def test_what_a_layer_cannot_see_any_more_is_shown_as_gone(browser: Browser, server: RunningServer) -> None:
    async with watched_page(browser, server.url) as watched:
        page = watched.page
        await watched.open()
        await page.get_by_label("Model", exact=True).select_option("tolstoy-window")
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_label("Max tokens").fill("3000")
        await page.get_by_role("button", name="Save").click()
        await watched.send("Prince Andrew looked at the sky. " * 80)
        await watched.go("#/models/tolstoy-window")
        strip = page.locator(".strip[data-kind=sliding_attention]")
        await expect(strip).to_have_attribute("data-evicted", re.compile(r"[1-9]\d"), timeout=30_000)
        await expect(strip.locator(".strip-words")).to_contain_text("Attention sees the last 256 tokens")
        await strip.get_by_text("Blocks in words").click()
        await expect(strip.locator("tbody tr").first).to_contain_text("forgotten")
        await page.go_back()
        await page.get_by_role("button", name="Stop", exact=True).click()
        await watched.until_answered()


async def test_the_view_comes_back_by_itself_when_the_connection_does(browser: Browser, server: RunningServer) -> None:
    async with watched_page(browser, server.url) as watched:
        page = watched.page
        await watched.open("#/windows")
        connection = page.locator(".connection")
        await expect(connection).to_have_text("Live")
        await page.context.set_offline(True)
        await page.evaluate("location.hash = '#/chat'")
        await page.evaluate("location.hash = '#/windows'")
        await expect(connection).to_have_text("Reconnecting")
        await page.context.set_offline(False)
        await expect(connection).to_have_text("Live")
        watched.complaints.clear()  # of the browser, which had no network


async def test_the_page_of_a_model_says_what_the_server_says(browser: Browser, server: RunningServer) -> None:
    async with watched_page(browser, server.url) as watched:
        page = watched.page
        await watched.open("#/models")
        await page.get_by_role("link", name="recall").last.click()
        facts = page.locator(".facts")
        await expect(facts.first).to_contain_text("32,768 tokens")
        await expect(page.get_by_text("RAM for them").locator("xpath=..")).to_contain_text("3 MiB")
        await expect(page.get_by_text("SSD for them").locator("xpath=..")).to_contain_text("32 MiB")
        await expect(page.locator(".strategies dt", has_text="this model's")).to_contain_text("full")
