"""Chat in a real browser, over the real server with an engine that recites what the test wants to be said."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Download, Page, expect

from tests.browser.pages import Watched, browsing, watched_page
from tests.server.running import Running, running
from tests.server.served import REPORT, RecitingEngine
from transom.errors import EngineError
from transom.server.settings import ServerSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
WINDOW = 4096
MARKDOWN = """# Heading

A **bold** and *slanted* word, `code`, [a link](https://example.org/x) and ~~nothing~~.

- one
- two
  1. inner

> quoted

| a | b |
|---|---|
| 1 | 2 |

```python
print("hello")
```
"""
ATTACKS = """<img src=x onerror="window.hurt = 1"> <script>window.hurt = 2</script>
[click](javascript:window.hurt=3) [more](JaVaScRiPt:window.hurt=4) [tab](java\tscript:window.hurt=5)
![picture](https://example.org/x.png) <svg onload="window.hurt = 6"> <a href="javascript:window.hurt=7">x</a>
[data](data:text/html,<script>window.hurt=8</script>) <javascript:window.hurt=9> [vb](vbscript:x) <iframe src="https://example.org">

```html"><img src=x onerror="window.hurt=10">
<script>window.hurt = 11</script>
```

| <b onclick="window.hurt=12">a</b> | [x](javascript:window.hurt=13) |
|---|---|
| <img src=x onerror="window.hurt=14"> | b |
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with browsing(chromium) as browser:
        yield browser


@asynccontextmanager
async def chatting(
    browser: Browser, *engines: RecitingEngine, settings: ServerSettings | None = None, **options: Any
) -> AsyncIterator[tuple[Watched, Running]]:
    """A page over models that chat."""
    async with (
        running(*engines, settings=settings, template=TEMPLATE, window=WINDOW) as server,
        watched_page(browser, server.url, **options) as watched,
    ):
        yield watched, server


def reciting(text: str, **more: Any) -> RecitingEngine:
    """Says this, and ends."""
    report = replace(REPORT, max_sequence_tokens=WINDOW)
    return RecitingEngine(recited=text.encode(), end_after=len(text.encode()), report=report, **more)


async def set_field(page: Page, label: str, value: str) -> None:
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label(label).fill(value)
    await page.get_by_role("button", name="Save").click()


async def test_an_answer_is_written_as_markdown_and_counted(browser: Browser) -> None:
    async with chatting(browser, reciting(MARKDOWN)) as (watched, _):
        await watched.open()
        await watched.send("Hello")
        await watched.until_answered()
        answer = watched.answer
        await expect(answer.locator("h3")).to_have_text("Heading")
        await expect(answer.locator("strong")).to_have_text("bold")
        await expect(answer.locator("em")).to_have_text("slanted")
        await expect(answer.locator("a")).to_have_attribute("href", "https://example.org/x")
        await expect(answer.locator("ul > li")).to_have_count(2)
        await expect(answer.locator("li ol > li")).to_have_text("inner")
        await expect(answer.locator("blockquote")).to_have_text("quoted")
        await expect(answer.locator("td")).to_have_text(["1", "2"])
        await expect(answer.locator("pre")).to_have_text('print("hello")')
        await expect(watched.page.locator(".message-note").last).to_contain_text("out")
        await expect(watched.page.locator("#announcer")).to_contain_text("Answer complete")
        await expect(watched.page.get_by_role("link", name="Hello")).to_have_attribute("aria-current", "page")


async def test_code_is_copied(browser: Browser) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    async with chatting(browser, reciting(MARKDOWN), permissions=permissions) as (watched, _):
        await watched.open()
        await watched.send("Hello")
        await watched.until_answered()
        await watched.page.locator("figure.code").get_by_role("button", name="Copy").click()
        await expect(watched.page.get_by_role("button", name="Copied")).to_be_visible()
        assert await watched.page.evaluate("navigator.clipboard.readText()") == 'print("hello")'


async def test_what_a_model_writes_never_becomes_markup(browser: Browser) -> None:
    async with chatting(browser, reciting(ATTACKS)) as (watched, _):
        await watched.open()
        await watched.send("Hello")
        await watched.until_answered()
        answer = watched.answer
        await expect(answer).to_contain_text('<img src=x onerror="window.hurt = 1">')
        assert await answer.locator("img, script, svg, iframe, b, [onclick], [onerror], [onload]").count() == 0
        hrefs = await answer.locator("a").evaluate_all("links => links.map(link => link.href)")
        assert set(hrefs) == {"https://example.org/x.png", "https://example.org/"}
        assert await watched.page.evaluate("window.hurt") is None


async def test_what_a_person_writes_never_becomes_markup(browser: Browser) -> None:
    async with chatting(browser, reciting("ok")) as (watched, _):
        await watched.open()
        await watched.send(ATTACKS)
        await watched.until_answered()
        page = watched.page
        await page.reload()
        await expect(page.locator(".message.user .message-body")).to_contain_text("<script>window.hurt = 2</script>")
        assert await page.evaluate("window.hurt") is None


async def test_text_is_shown_as_it_comes_and_stops_when_it_is_told_to(browser: Browser) -> None:
    engine = reciting("so far so good, and so on", holds_after=6)
    async with chatting(browser, engine) as (watched, _):
        await watched.open()
        await watched.send("Hello")
        await expect(watched.answer).to_have_text("so far")
        await watched.page.get_by_role("button", name="Stop", exact=True).click()
        await expect(watched.page.locator(".message-note").last).to_contain_text("stopped by you")
        await expect(watched.answer).to_have_text("so far")
        assert set(engine.aborted) == {engine.requests[0].request_id}
        await watched.page.reload()
        await expect(watched.answer).to_have_text("so far")


async def test_the_model_is_switched_and_keeps_the_conversation(browser: Browser) -> None:
    first, second = reciting("first"), reciting("second")
    async with chatting(browser, first, second) as (watched, _):
        await watched.open()
        await watched.send("Hello")
        await watched.until_answered()
        await watched.page.get_by_label("Model", exact=True).select_option("tiny-1")
        await watched.send("And you?")
        await watched.until_answered()
        await expect(watched.page.locator(".message .who")).to_have_text(["You", "tiny", "You", "tiny-1"])
        assert (len(first.requests), len(second.requests)) == (1, 1)
        prompt = bytes(second.requests[0].prompt_token_ids).decode()
        assert prompt == "<user>Hello<assistant>first<user>And you?"


async def test_settings_are_sent_and_belong_to_the_conversation(browser: Browser) -> None:
    engine = reciting("yes")
    async with chatting(browser, engine) as (watched, _):
        page = watched.page
        await watched.open()
        await page.get_by_role("button", name="Settings").click()
        for label, value in (
            ("Temperature", "0.25"),
            ("Max tokens", "7"),
            ("Seed", "0"),
            ("System prompt", "Be brief"),
        ):
            await page.get_by_label(label).fill(value)
        await page.get_by_label("Cache strategy").select_option("keep_first")
        await page.get_by_label("Window size").fill("512")
        await page.get_by_label("Keep first").fill("64")
        await page.get_by_role("button", name="Save").click()
        await watched.send("Hello")
        await watched.until_answered()
        [request] = engine.requests
        assert (request.sampling.temperature, request.sampling.max_tokens, request.sampling.seed) == (0.25, 7, 0)
        assert request.cache is not None
        assert (request.cache.strategy, request.cache.window_size, request.cache.keep_first) == ("keep_first", 512, 64)
        assert bytes(request.prompt_token_ids).decode() == "<system>Be brief<user>Hello"
        await page.reload()
        await page.get_by_role("button", name="Settings").click()
        await expect(page.get_by_label("System prompt")).to_have_value("Be brief")
        await page.keyboard.press("Escape")


async def test_conversations_survive_a_reload_and_are_renamed_exported_deleted(browser: Browser) -> None:
    async with chatting(browser, reciting("ok")) as (watched, _):
        page = watched.page
        await watched.open()
        for text in ("First talk", "Second talk"):
            await page.get_by_role("button", name="New conversation").click()
            await watched.send(text)
            await watched.until_answered()
        await page.reload()
        entries = page.locator("#conversations a")
        await expect(entries).to_have_text(["Second talk", "First talk"])
        await expect(page.locator(".message.user .message-body")).to_have_text("Second talk")
        await entries.nth(1).click()
        await expect(page.locator(".message.user .message-body")).to_have_text("First talk")
        title = page.get_by_label("Title of the conversation")
        await title.fill("Renamed")
        await title.press("Tab")
        await expect(page.get_by_role("link", name="Renamed")).to_be_visible()
        async with page.expect_download() as download:
            await page.get_by_role("button", name="Export").click()
        assert await text_of(await download.value) == "# Renamed\n\n**You**\n\nFirst talk\n\n**tiny**\n\nok\n"
        await page.get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(entries).to_have_text(["Second talk"])
        await page.reload()
        await expect(entries).to_have_text(["Second talk"])


async def test_the_context_is_counted_while_one_writes(browser: Browser) -> None:
    async with chatting(browser, reciting("ok")) as (watched, _):
        await watched.open()
        await watched.page.get_by_label("Message").fill("x" * 94)
        meter = watched.page.get_by_role("meter", name="Context window in use")
        await expect(meter).to_have_attribute("aria-valuenow", "100")
        await expect(watched.page.locator(".meter-words")).to_have_text("100 of 4,096 tokens · 2.4 %")


async def test_what_is_too_long_is_refused_in_clear_words_and_nothing_is_cut(browser: Browser) -> None:
    text = "y" * 5000
    async with chatting(browser, engine := reciting("ok")) as (watched, _):
        watched.expected_statuses = {400}
        page = watched.page
        await watched.open()
        await page.get_by_label("Message").fill(text)
        await expect(page.locator(".meter-words")).to_have_text("5,006 of 4,096 tokens: 910 too many")
        await page.get_by_role("button", name="Send").click()
        alert = page.locator(".composer-error")
        await expect(alert).to_contain_text("nothing was cut")
        await expect(alert).to_contain_text("4096")
        await expect(page.get_by_label("Message")).to_have_value(text)
        assert engine.requests == []


async def test_an_answer_that_breaks_off_says_so(browser: Browser) -> None:
    engine = reciting("abcdefgh", fails_after=3, failure=EngineError("The generation failed."))
    async with chatting(browser, engine) as (watched, _):
        await watched.open()
        await watched.send("Hello")
        await expect(watched.page.locator(".message.assistant .message-error")).to_have_text("The generation failed.")
        await expect(watched.answer).to_have_text("abc")


async def test_a_model_without_a_template_continues_the_text(browser: Browser) -> None:
    engine = RecitingEngine(recited=b" and on and on and on")
    async with running(engine) as server, watched_page(browser, server.url) as watched:
        page = watched.page
        await watched.open()
        await expect(page.locator(".welcome")).to_contain_text("continues the text")
        await set_field(page, "Max tokens", "7")
        await watched.send("It went on")
        await watched.until_answered()
        await page.get_by_role("button", name="Continue").click()
        await watched.until_answered()
        prompts = [bytes(request.prompt_token_ids).decode() for request in engine.requests]
        assert prompts == ["It went on", "It went on and on"]


async def test_a_key_is_asked_for_once_and_stays_in_the_tab(browser: Browser) -> None:
    settings = ServerSettings(port=0, drain_timeout=2, api_keys=("secret",))
    async with chatting(browser, reciting("ok"), settings=settings) as (watched, _):
        watched.expected_statuses = {401}
        page = watched.page
        await page.goto(watched.url)
        dialog = page.get_by_role("dialog", name="API key")
        await dialog.get_by_label("Key").fill("wrong")
        await dialog.get_by_role("button", name="Use this key").click()
        await expect(dialog.get_by_label("Key")).to_have_value("wrong")
        await dialog.get_by_label("Key").fill("secret")
        await page.keyboard.press("Enter")
        await watched.send("Hello")
        await watched.until_answered()
        await expect(watched.answer).to_have_text("ok")
        await watched.go("#/windows")
        await expect(page.locator(".connection")).to_have_text("Live")
        await page.reload()
        await expect(page.locator(".connection")).to_have_text("Live")
        assert await page.evaluate("JSON.stringify(Object.entries(localStorage)).includes('secret')") is False


async def test_everything_is_reached_with_the_keyboard_alone(browser: Browser) -> None:
    async with chatting(browser, reciting("ok"), viewport={"width": 390, "height": 780}) as (watched, _):
        page, press = watched.page, watched.page.keyboard.press
        await watched.open()
        await press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await press("Tab")
        await press("Enter")
        await expect(page.get_by_role("button", name="New conversation")).to_be_focused()
        await press("Escape")
        await expect(page.get_by_role("button", name="Menu")).to_be_focused()
        seen = await focus_order(page)
        assert [name for name in seen if name in ("title", "model", "Settings", "message")] == [
            "title",
            "model",
            "Settings",
            "message",
        ]
        await page.keyboard.type("Hello")
        await press("Enter")
        await watched.until_answered()
        await expect(watched.answer).to_have_text("ok")
        await press("Shift+Tab")
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


async def text_of(download: Download) -> str:
    path: Path = await download.path()
    return await asyncio.to_thread(path.read_text)


async def focus_order(page: Page) -> list[str]:
    """What Tab reaches, up to the input."""
    names = {"title-input": "title", "model-select": "model", "composer-input": "message"}
    seen: list[str] = []
    while "message" not in seen and len(seen) < 30:
        await page.keyboard.press("Tab")
        told = await page.evaluate("(e => [e.id, e.className, e.textContent])(document.activeElement)")
        seen.append(names.get(told[0]) or names.get(told[1]) or str(told[2]))
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_the_accessibility_checker_finds_nothing(browser: Browser, scheme: str, width: int) -> None:
    engine = reciting(MARKDOWN, holds_after=len(MARKDOWN) - 5)
    viewport = {"width": width, "height": 780}
    async with chatting(browser, engine, color_scheme=scheme, viewport=viewport) as (watched, _):
        page = watched.page
        await watched.open()
        await watched.send("Hello " * 60)
        await expect(watched.answer.locator("blockquote")).to_be_visible()
        for place, landmark in (
            ("", "Chat"),
            ("#/windows", "Windows"),
            ("#/models", "Models"),
            ("#/models/tiny", "Models"),
        ):
            if place:
                await watched.go(place)
            await expect(page.get_by_role("region", name=landmark, exact=True)).to_be_visible()
            await page.wait_for_timeout(350)
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is too wide"


async def test_the_theme_is_chosen_and_kept(browser: Browser) -> None:
    async with chatting(browser, reciting("ok"), color_scheme="light") as (watched, _):
        page = watched.page
        await watched.open()
        background = "getComputedStyle(document.documentElement).backgroundColor"
        light = await page.evaluate(background)
        await page.get_by_label("Theme").select_option("dark")
        dark = await page.evaluate(background)
        assert light != dark
        await page.reload()
        assert await page.evaluate(background) == dark


async def test_the_policy_forbids_what_the_page_does_not_need(browser: Browser) -> None:
    async with chatting(browser, reciting("ok")) as (watched, _):
        await watched.open()
        refused = await watched.page.evaluate(
            """() => { try { document.body.insertAdjacentHTML("beforeend", "<b>x</b>"); return null }
                       catch (error) { return error.message } }"""
        )
        assert re.search("TrustedHTML", refused)
        assert any("TrustedHTML" in complaint for complaint in watched.complaints)
        watched.complaints.clear()
