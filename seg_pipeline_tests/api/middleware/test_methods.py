"""Every path has the methods that HTTP asks for, and says which it has."""

import httpx
import pytest

PATHS = {
    "/": "GET, HEAD, OPTIONS",
    "/livez": "GET, HEAD, OPTIONS",
    "/readyz": "GET, HEAD, OPTIONS",
    "/health": "GET, HEAD, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
    "/docs": "GET, HEAD, OPTIONS",
    "/docs/swagger-ui.css": "GET, HEAD, OPTIONS",
    "/ui/app.js": "GET, HEAD, OPTIONS",
    "/models": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
    "/jobs": "GET, HEAD, POST, OPTIONS",
    "/jobs/abc": "GET, HEAD, DELETE, OPTIONS",
    "/jobs/abc/callback": "POST, OPTIONS",
    "/jobs/abc/cancel": "POST, OPTIONS",
    "/jobs/abc/events": "GET, HEAD, OPTIONS",
    "/assets/abc/original.webp": "GET, HEAD, OPTIONS",
    "/segment": "POST, OPTIONS",
    "/segment/256": "POST, OPTIONS",
}


@pytest.mark.parametrize("path", PATHS)
def test_head_is_answered_as_get_is_without_the_body(doorman: httpx.Client, path: str) -> None:
    """RFC 9110, 9.3.2: monitors and load balancers ask so."""
    if "GET" not in PATHS[path]:
        assert doorman.head(path).status_code == 405
        return
    got, head = doorman.get(path), doorman.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # which counts
        assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("path", PATHS)
def test_what_a_path_has_is_in_allow(doorman: httpx.Client, path: str) -> None:
    """Of all its routes, not of the first alone (RFC 9110, 15.5.6)."""
    options = doorman.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, PATHS[path])
    for method in ("PUT", "PATCH"):
        refused = doorman.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, PATHS[path])
        assert refused.json()["code"] == "method_not_allowed"


def test_a_path_that_is_none_has_no_methods(doorman: httpx.Client) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "PUT"):
        response = doorman.request(method, "/nowhere")
        assert (response.status_code, response.headers.get("allow")) == (404, None)


def test_the_metrics_know_the_route_of_a_head(doorman: httpx.Client) -> None:
    doorman.head("/jobs")
    assert 'method="HEAD",route="/jobs"' in doorman.get("/metrics").text
