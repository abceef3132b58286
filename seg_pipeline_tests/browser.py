"""The system's Chromium for tests that use the page as a person does."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright

from seg_pipeline_tests.servers import missing

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window; the test is skipped where none is installed."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        missing("Chromium")
    options: dict[str, Any] = {"executable_path": program}
    if os.geteuid() == 0:
        options["args"] = ["--no-sandbox"]  # as root it has none
    expect.set_options(timeout=20_000)  # as pages wait: five seconds may be too short
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options)
        yield browser
        browser.close()
