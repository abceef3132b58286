"""Makes docs/images/*.webp: the page at `/` and Dagster's of a job, as a browser shows them.

python scripts/make_screenshots.py http://localhost:8000 http://localhost:3000
"""

import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, ViewportSize

from seg_pipeline.local.sample import BUNDLED
from seg_pipeline_tests.browser import chromium

FOLDER = Path(__file__).parent.parent / "docs" / "images"
LAPTOP: ViewportSize = {"width": 1280, "height": 800}
PAGES: Mapping[str, Mapping[str, Any]] = {
    "page-laptop": {"viewport": LAPTOP},
    "page-phone": {
        "viewport": {"width": 390, "height": 800},
        "color_scheme": "dark",
        "has_touch": True,
        "is_mobile": True,
    },
}
DAGSTER: Mapping[str, tuple[str, str]] = {
    "dagster-result": ("job/{uuid}", "Segments"),
    "dagster-lineage": ("assets/result?view=lineage&lineageDepth=5", "source_image"),
}
"""What each picture shows of Dagster, and a word that is there once it is drawn."""


def main(url: str, dagster_url: str) -> None:
    """Takes all pictures. The service must have a demo model as its default."""
    FOLDER.mkdir(exist_ok=True)
    uuid = httpx.post(f"{url}/segment", content=BUNDLED.read_bytes(), timeout=60).json()["uuid"]
    with chromium() as browser:
        for name in PAGES:
            save(name, page_of_service(browser, url, name))
        for name in DAGSTER:
            save(name, page_of_dagster(browser, dagster_url, name, uuid))


def page_of_service(browser: Browser, url: str, name: str) -> bytes:
    """The segmented sample with one segment chosen, as PNG."""
    page = browser.new_page(**PAGES[name])
    page.goto(url)
    page.get_by_role("button", name="Try a sample").click()
    page.wait_for_selector("body[data-masks]")
    page.locator(".option").nth(2).click()
    page.locator("#selected-image").evaluate("image => image.decode()")
    return page.screenshot()


def page_of_dagster(browser: Browser, url: str, name: str, uuid: str) -> bytes:
    """What an operator sees of the job, as PNG."""
    way, word = DAGSTER[name]
    page = browser.new_page(viewport=LAPTOP)
    page.goto(f"{url}/{way.format(uuid=uuid)}")
    page.get_by_text(word).first.wait_for()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2000)  # what moves comes to rest
    return page.screenshot()


def save(name: str, png: bytes) -> None:
    """Writes the picture."""
    Image.open(BytesIO(png)).save(FOLDER / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main(*sys.argv[1:])
