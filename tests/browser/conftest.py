"""Chromium, and the page in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
HOW = "no Chromium: apt-get install chromium, or playwright install chromium, or set CHROMIUM to one"


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The page, served by a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "demos.web", "--port", "0", "--no-open-browser"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("The page is at http://127.0.0.1:"), line
            yield line.split()[4]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser: that of CHROMIUM, Debian's, or playwright's own."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'"
    )
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as api:
        try:
            browser = api.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.fail(f"{HOW} ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


@pytest.fixture
def open_page(address: str, chromium: Any) -> Iterator[Any]:
    """A function that opens the page in a window of some width. The page must ask this machine alone, and log no error."""
    pages, asked, errors = [], [], []

    def make(width: int = 1120) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(240_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#board input")
        pages.append(page)
        return page

    yield make
    for page in pages:
        page.close()
    hosts = {urlsplit(url).hostname for url in asked if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {"127.0.0.1"} and not errors, (hosts, errors)
