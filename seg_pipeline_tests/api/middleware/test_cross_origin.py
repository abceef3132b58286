"""Web pages of other origins: none may use the API, unless CORS_ORIGINS names them."""

import httpx
import pytest

from seg_pipeline.settings import Settings
from seg_pipeline_tests.api.serving import Serve
from seg_pipeline_tests.builders import picture_bytes

SHOP = "https://shop.example"
PREFLIGHT = {
    "Origin": SHOP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "x-api-key,prefer,idempotency-key,content-type",
}


def allowed(response: httpx.Response) -> str | None:
    origin: str | None = response.headers.get("access-control-allow-origin")
    return origin


def test_by_default_no_page_of_another_origin_is_let_in(doorman: httpx.Client) -> None:
    assert allowed(doorman.get("/models", headers={"Origin": SHOP})) is None
    assert allowed(doorman.options("/segment", headers=PREFLIGHT)) is None


def test_a_page_of_a_listed_origin_may_ask_and_send(serve: Serve) -> None:
    client = serve(cors_origins=f"{SHOP}, https://blog.example/")
    preflight = client.options("/segment", headers=PREFLIGHT)
    assert (preflight.status_code, allowed(preflight)) == (200, SHOP)
    assert "POST" in preflight.headers["access-control-allow-methods"]
    answer = client.post(
        "/segment",
        content=picture_bytes(),
        headers={"Origin": SHOP, "Prefer": "respond-async"},
    )
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert (answer.status_code, allowed(answer)) == (202, SHOP)
    assert {"location", "retry-after", "preference-applied", "x-job-uuid"} <= set(exposed)
    assert {"location", "retry-after", "preference-applied", "x-job-uuid"} <= set(answer.headers)


def test_a_page_can_read_a_refusal(serve: Serve) -> None:
    refused = serve(cors_origins=SHOP).get("/jobs/none", headers={"Origin": SHOP})
    assert (refused.status_code, allowed(refused)) == (404, SHOP)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://shop.example", "null"])
def test_a_page_of_any_other_origin_is_not_let_in(serve: Serve, origin: str) -> None:
    client = serve(cors_origins=SHOP)
    assert allowed(client.get("/models", headers={"Origin": origin})) is None
    assert client.options("/segment", headers={**PREFLIGHT, "Origin": origin}).status_code == 400


def test_no_cookie_is_ever_asked_for(serve: Serve) -> None:
    answer = serve(cors_origins="*").get("/models", headers={"Origin": SHOP})
    assert allowed(answer) == "*"
    assert "access-control-allow-credentials" not in answer.headers


def test_what_is_asked_without_a_page_is_answered_as_before(serve: Serve) -> None:
    client = serve(cors_origins=SHOP)
    assert client.options("/segment").headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("origins", ["shop.example", "https://shop.example/page", "https://*.a"])
def test_what_is_no_origin_is_refused_at_the_start(origins: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        Settings(_env_file=None, cors_origins=origins)
