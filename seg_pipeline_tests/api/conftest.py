"""Fixtures: a served API, its store, and a browser."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from seg_pipeline.store import Store, keys, open_store
from seg_pipeline_tests.api.serving import Serve, api_settings, serving
from seg_pipeline_tests.browser import chromium


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts the API with these settings (and store), gives a client of it, and stops it after the
    test."""
    with ExitStack() as stack:

        def start(store: Store | None = None, **values: Any) -> httpx.Client:
            settings = api_settings(tmp_path, **values)
            url = stack.enter_context(serving(settings, store or open_store(settings)))
            return stack.enter_context(httpx.Client(base_url=url, timeout=30))

        yield start


@pytest.fixture(scope="module")
def doorman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One API for all of a file's requests that are refused at the door; nothing comes in."""
    settings = api_settings(tmp_path_factory.mktemp("door"), wait_seconds=0)
    store = open_store(settings)
    with serving(settings, store) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
    assert store.list(keys.ASSETS) == []


@pytest.fixture
def api_store(tmp_path: Path) -> Store:
    """The store that `serve` uses where the test names none."""
    return open_store(api_settings(tmp_path))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab; a script's error or anything that the page's policy forbids fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page, errors = context.new_page(), list[str]()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda line: errors.append(line.text) if "Content Security" in line.text else None,
    )
    yield page
    context.close()
    assert errors == []
