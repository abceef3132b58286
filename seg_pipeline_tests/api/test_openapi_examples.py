"""What the documentation shows is what the service would say."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from api.error_examples import error_examples
from api.error_responses import STATUS_BY_CODE

Example = tuple[str, dict[str, Any], Any]


@pytest.fixture(scope="module")
def openapi(doorman: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = doorman.get("/openapi.json").json()
    return document


def examples(document: dict[str, Any]) -> Iterator[Example]:
    """Where each example is, its schema and itself."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            bodies = {**operation["responses"], "body": operation.get("requestBody", {})}
            for name, body in bodies.items():
                yield from _of_content(f"{method} {path} {name}", body.get("content", {}), document)
            for parameter in operation.get("parameters", []):
                yield from _of_schema(f"{method} {path} {parameter['name']}", parameter["schema"])
    for name, schema in document["components"]["schemas"].items():
        yield from _of_schema(name, schema)


def _of_content(where: str, content: dict[str, Any], document: dict[str, Any]) -> Iterator[Example]:
    for media in content.values():
        schema = media.get("schema", {})
        if "example" in media:
            yield where, schema, media["example"]
        for name, example in media.get("examples", {}).items():
            shown = document["components"]["examples"][name] if "$ref" in example else example
            yield f"{where} {name}", schema, shown["value"]
        yield from _of_schema(where, schema)


def _of_schema(where: str, schema: Any) -> Iterator[Example]:
    if isinstance(schema, dict):
        shown = schema.get("examples", [])
        rest = {name: value for name, value in schema.items() if name != "examples"}
        yield from ((where, rest, value) for value in (shown if isinstance(shown, list) else []))
        for name, value in rest.items():
            yield from _of_schema(f"{where} {name}", value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _of_schema(where, value)


def test_every_example_fits_its_own_schema(openapi: dict[str, Any]) -> None:
    found = list(examples(openapi))
    assert len(found) > 100
    for where, schema, value in found:
        errors = Draft202012Validator({**schema, "components": openapi["components"]}).iter_errors(
            value
        )
        assert not [error.message for error in errors], where


def test_every_error_that_is_shown_is_one_that_is_raised_here() -> None:
    for code, error in error_examples().items():
        assert code == error.code
        assert code in STATUS_BY_CODE
        assert str(error).endswith(".") or code == "model_failed"


def test_the_words_of_refusals_are_those_that_a_client_gets(doorman: httpx.Client) -> None:
    """Of those that can be had by asking."""
    shown = {code: str(error) for code, error in error_examples().items()}
    for code, response in {
        "empty_image": doorman.post("/segment"),
        "not_an_image": doorman.post("/segment", content=b"no picture"),
        "invalid_resize": doorman.post("/segment/0"),
        "invalid_uuid": doorman.post(
            "/jobs", json={"uuid": "../x", "image_url": "https://example.com/a.png"}
        ),
        "invalid_ttl": doorman.post("/segment", params={"ttl_seconds": "0"}),
        "invalid_url": doorman.post("/jobs", json={"image_url": "ftp://example.com/a.png"}),
        "job_not_found": doorman.get("/jobs/abc123"),
        "unsupported_body": doorman.post("/jobs", content=b"x"),
        "asset_not_found": doorman.get("/assets/abc123/crops/x.webp"),
        "invalid_request": doorman.post("/jobs", files={"uuid": (None, "a")}),
        "body_too_large": doorman.post(
            "/jobs", content=bytes(2**17), headers={"Content-Type": "application/json"}
        ),
    }.items():
        assert response.json()["code"] == code
        assert response.json()["error"] == shown[code]
