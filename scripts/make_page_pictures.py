"""Makes docs/images/page-*.webp: the page at `/` of a running service, as a browser shows it.

python scripts/make_page_pictures.py http://localhost:8000
"""

import sys
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser

from seg_pipeline_tests.browser import chromium

FOLDER = Path(__file__).parent.parent / "docs" / "images"
VIEWS: dict[str, tuple[int, int, Literal["light", "dark"]]] = {
    "laptop": (1280, 800, "light"),
    "phone": (390, 800, "dark"),
}


def main(url: str) -> None:
    """Takes a picture of each view. The service must have a demo model as its default."""
    FOLDER.mkdir(exist_ok=True)
    with chromium() as browser:
        for name in VIEWS:
            picture = Image.open(BytesIO(taken(browser, url, name)))
            picture.save(FOLDER / f"page-{name}.webp", quality=80, method=6)


def taken(browser: Browser, url: str, name: str) -> bytes:
    """The segmented sample with one segment chosen, as PNG."""
    width, height, scheme = VIEWS[name]
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        has_touch=name == "phone",
        is_mobile=name == "phone",
    )
    page.goto(url)
    page.get_by_role("button", name="Try a sample").click()
    page.wait_for_selector("body[data-masks]")
    page.locator(".option").nth(2).click()
    page.locator("#selected-image").evaluate("image => image.decode()")
    return page.screenshot()


if __name__ == "__main__":
    main(sys.argv[1])
