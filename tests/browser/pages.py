"""A page that is watched while a test drives it: complaints, and whatever it fetches from elsewhere, fail the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect


@dataclass
class Watched:
    """A page and what it should not have done."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    expected_statuses: set[int] = field(default_factory=set)
    """Of refusals, which the browser's console reports by itself."""

    def hear(self, message: ConsoleMessage) -> None:
        is_expected = any(f"status of {status}" in message.text for status in self.expected_statuses)
        if message.type in ("error", "warning") and not is_expected:
            self.complaints.append(message.text)

    def see(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)

    async def open(self, place: str = "") -> None:
        await self.page.goto(f"{self.url}/{place}")
        await expect(self.page.locator("#model-select option").first).to_be_attached()

    async def go(self, place: str) -> None:
        """By the address, as a link would."""
        await self.page.evaluate("place => { location.hash = place }", place)

    async def send(self, text: str) -> None:
        await self.page.get_by_label("Message").fill(text)
        await self.page.get_by_role("button", name="Send").click()

    async def until_answered(self) -> None:
        await expect(self.page.get_by_role("button", name="Stop", exact=True)).to_have_count(0, timeout=30_000)

    @property
    def answer(self) -> Any:
        return self.page.locator(".message.assistant .message-body").last


@asynccontextmanager
async def browsing(executable: str) -> AsyncIterator[Browser]:
    """A browser without a screen."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def watched_page(browser: Browser, url: str, **options: Any) -> AsyncIterator[Watched]:
    """A fresh profile with one page; `options` as Playwright's contexts have them."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(10_000)
    page = await context.new_page()
    watched = Watched(page, url)
    page.on("console", watched.hear)
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("request", watched.see)
    try:
        yield watched
        assert not watched.complaints, watched.complaints
        assert not watched.foreign, watched.foreign
    finally:
        await context.close()
