"""The address `/`: a page for browsers, the card for everybody else, and nothing from elsewhere."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.routes import page
from api.routes.page import dagster_url, prefers_html
from api.service import Service
from seg_pipeline.domain import MAX_RESIZE, MAX_URL_LENGTH
from seg_pipeline.exports import FORMATS
from seg_pipeline.pipeline.stage_names import StageName
from seg_pipeline.settings import Settings
from seg_pipeline.store import open_store
from seg_pipeline_tests.api.serving import Serve

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FOLDER = Path(page.__file__).parents[1] / "ui"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (BROWSER["accept"], True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/*", True),
        ("application/json;q=0.5, text/html", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("text/html;q=0.2, application/json", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=much", False),
    ],
)
def test_html_goes_to_those_who_want_it_more_than_json(accept: str, wanted: bool) -> None:
    assert prefers_html(accept) is wanted


def test_programs_get_the_card_and_browsers_the_page(doorman: httpx.Client) -> None:
    card, html = doorman.get("/"), doorman.get("/", headers=BROWSER)
    assert card.json().keys() == {"service", "version", "docs", "openapi"}
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert card.headers["vary"] == html.headers["vary"] == "Accept"
    assert "{{" not in html.text


def test_every_file_of_the_page_is_served_and_no_other(doorman: httpx.Client) -> None:
    files = {path.name for path in FOLDER.iterdir()} - {"index.html"}
    for name in files:
        answer = doorman.get(f"/ui/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
    for name in ("index.html", "..%2fapp.py", ".", "style.css~", "%2e%2e"):
        assert doorman.get(f"/ui/{name}").status_code == 404


def test_what_the_page_loads_is_all_there(doorman: httpx.Client) -> None:
    """Its addresses are relative, so that it also works below a proxy's prefix."""
    html = doorman.get("/", headers=BROWSER).text
    named = re.findall(r'(?:src|href)="(?!#|\./)([^"]+)"', html)
    for path in (FOLDER / name for name in re.findall(r'"ui/(\w+\.js)"', html)):
        named += [f"ui/{name}" for name in re.findall(r'from "\./([^"]+)"', path.read_text())]
    assert {"ui/app.js", "ui/client.js", "ui/style.css", "docs"} <= set(named)
    assert all(doorman.get(f"/{name}").status_code == 200 for name in named)


def test_no_file_names_another_host() -> None:
    for path in FOLDER.iterdir():
        hosts = re.findall(r"https?://[\w.-]+", path.read_text(encoding="utf-8"))
        assert set(hosts) <= {"http://www.w3.org"}, path.name  # SVG's name, which nobody fetches


def test_a_browser_keeps_what_has_not_changed(doorman: httpx.Client) -> None:
    for path in ("/", "/ui/style.css"):
        first = doorman.get(path, headers=BROWSER)
        assert first.headers["cache-control"] == "no-cache"
        again = doorman.get(path, headers={**BROWSER, "if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = doorman.get(path, headers={**BROWSER, "if-none-match": '"other"'})
        assert other.status_code == 200


def test_nothing_inline_runs_and_nobody_frames_the_page(doorman: httpx.Client) -> None:
    policy = doorman.get("/", headers=BROWSER).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_pictures_may_come_from_the_bucket_that_links_lead_to(tmp_path: Path) -> None:
    def images(**values: Any) -> str:
        settings = Settings(_env_file=None, data_dir=tmp_path, **values)
        policy = page.policy(Service.build(settings, open_store(settings)))
        return policy.rpartition("img-src ")[2]

    bucket = {"s3_bucket": "cuts", "s3_access_key": "a", "s3_secret_key": "b"}
    endpoint = {"s3_endpoint_url": "http://minio:9000"}
    assert images() == "'self' blob: data:"
    assert images(**bucket, **endpoint).endswith(" http://minio:9000")
    assert images(**bucket, **endpoint, asset_link_secret="x") == "'self' blob: data:"


def test_dagster_is_linked_where_its_address_is_known(serve: Serve) -> None:
    settings = Settings(_env_file=None, dagster_port=3456)
    assert dagster_url(settings) == "http://localhost:3456"
    assert dagster_url(settings.model_copy(update={"api_host": "0.0.0.0"})) == ""
    html = serve(dagster_url="https://dagster.example.com/").get("/", headers=BROWSER).text
    assert '<meta name="dagster-url" content="https://dagster.example.com">' in html
    with pytest.raises(ValueError, match="dagster_url"):
        Settings(_env_file=None, dagster_url="javascript:alert(1)")


def test_the_page_has_the_limits_of_the_service() -> None:
    resize = re.search(
        r'name: "resize".*?maximum: (\d+)', (FOLDER / "options.js").read_text(), re.S
    )
    address = re.search(r'maxlength="(\d+)"', (FOLDER / "index.html").read_text())
    assert resize
    assert address
    assert (int(resize[1]), int(address[1])) == (MAX_RESIZE, MAX_URL_LENGTH)


def test_the_page_names_every_stage_that_takes_time_and_no_other() -> None:
    named = re.search(r"const STAGES = \{(.*?)\}", (FOLDER / "result.js").read_text())
    assert named
    assert {*re.findall(r"(\w+): \"", named[1])} == {*StageName, "masks"} - {StageName.CALLBACK}


def test_the_page_titles_formats_that_there_are() -> None:
    titled = re.search(r"const TITLES = \{(.*?)\}", (FOLDER / "result.js").read_text())
    assert titled
    assert {name.strip('"') for name in re.findall(r"([\w\"-]+): \"", titled[1])} <= FORMATS.keys()
