"""Every link leads back to the service, also where only BASE_URL knows the proxy's prefix."""

import json
import re
from urllib.parse import urljoin

import httpx
import pytest

from seg_pipeline.store import Store
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.api.stand_ins import DRAWING, finish_job
from seg_pipeline_tests.builders import picture_bytes

PUBLIC = "https://pictures.example.com/seg"
POISON = {
    "Host": "evil",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "host=evil",
}


@pytest.fixture
def proxied(serve: Serve) -> httpx.Client:
    """An API as it stands behind a proxy that takes `/seg` away."""
    return serve(base_url=f"{PUBLIC}/", wait_seconds=0)


def send(client: httpx.Client, uuid: str) -> httpx.Response:
    return client.post("/segment", params={"uuid": uuid}, content=picture_bytes(), headers=POISON)


def test_location_leads_to_the_job(proxied: httpx.Client) -> None:
    assert (
        urljoin(f"{PUBLIC}/segment", send(proxied, "a").headers["location"]) == f"{PUBLIC}/jobs/a"
    )
    form = {"image_url": (None, "https://example.com/a.png"), "uuid": (None, "b")}
    assert (
        urljoin(f"{PUBLIC}/jobs", proxied.post("/jobs", files=form).headers["location"])
        == f"{PUBLIC}/jobs/b"
    )


def test_link_leads_to_the_next_page_with_what_was_asked(proxied: httpx.Client) -> None:
    send(proxied, "a"), send(proxied, "b")
    page = proxied.get("/jobs", params={"limit": "1", "status": "queued"}, headers=POISON)
    link = re.fullmatch('<(.*)>; rel="next"', page.headers["link"])
    assert link
    following = urljoin(f"{PUBLIC}/jobs", link[1])
    assert following.startswith(f"{PUBLIC}/jobs?status=queued&limit=1&after=")
    assert proxied.get(following.removeprefix(PUBLIC)).json()["jobs"][0]["uuid"] == "b"


def test_no_header_of_a_request_has_a_say_in_a_link(
    proxied: httpx.Client, api_store: Store
) -> None:
    """Else whoever can make a client send one chooses where its files are fetched from."""
    send(proxied, "a")
    finish_job(api_store, "a", DRAWING)
    answer = proxied.get("/jobs/a", headers=POISON)
    urls = re.findall(r"https?://[^\"]+", answer.text)
    assert urls
    assert all(url.startswith(f"{PUBLIC}/assets/a/") for url in urls)
    assert "evil" not in json.dumps([answer.text, dict(answer.headers)])


def test_the_documentation_is_found_below_the_prefix(proxied: httpx.Client) -> None:
    card = proxied.get("/").json()
    assert (card["docs"], card["openapi"]) == ("/seg/docs", "/seg/openapi.json")
    assert proxied.get("/openapi.json").json()["servers"] == [{"url": "/seg"}]
    assert "/seg/docs" in proxied.get("/nowhere").json()["error"]


def test_without_base_url_links_lead_to_where_the_client_asked(
    serve: Serve, api_store: Store
) -> None:
    client = serve(wait_seconds=0)
    client.post("/segment", params={"uuid": "a"}, content=picture_bytes())
    finish_job(api_store, "a", DRAWING)
    answer = client.get("/jobs/a", headers={"Host": "localhost:1234"}).json()
    assert answer["urls"][0] == "http://localhost:1234/assets/a/original.webp"
