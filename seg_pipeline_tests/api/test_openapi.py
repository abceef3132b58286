"""The documentation says what the service does, and needs no other host to say it."""

import re
from typing import Any

import httpx
import pytest

from api.error_responses import STATUS_BY_CODE
from api.openapi import failures

UPLOAD_STATUSES = {
    "200",
    "202",
    "400",
    "401",
    "404",
    "408",
    "409",
    "413",
    "422",
    "429",
    "500",
    "503",
    "507",
}
DOCUMENTED = {
    ("post", "/segment"): UPLOAD_STATUSES,
    ("post", "/segment/{resize}"): UPLOAD_STATUSES,
    ("post", "/jobs"): UPLOAD_STATUSES | {"415"},
    ("get", "/jobs"): {"200", "401", "422", "429", "500", "503"},
    ("get", "/jobs/{uuid}"): {"200", "401", "404", "422", "429", "500", "503"},
    ("delete", "/jobs/{uuid}"): {"202", "204", "401", "404", "409", "422", "429", "500", "503"},
    ("post", "/jobs/{uuid}/retry"): {
        "202",
        "401",
        "404",
        "409",
        "422",
        "429",
        "500",
        "503",
        "507",
    },
    ("get", "/jobs/{uuid}/events"): {
        *("200", "204", "401", "404", "422", "429", "500", "503"),
    },
    ("post", "/jobs/{uuid}/cancel"): {
        *("200", "202", "401", "404", "409", "422", "429", "500", "503", "507"),
    },
    ("post", "/jobs/{uuid}/callback"): {
        "202",
        "401",
        "404",
        "409",
        "422",
        "429",
        "500",
        "503",
        "507",
    },
    ("get", "/jobs/{uuid}/export"): {
        "200",
        "304",
        "401",
        "404",
        "409",
        "413",
        "422",
        "429",
        "500",
        "503",
    },
    ("get", "/assets/{uuid}/{name}"): {"200", "304", "403", "404", "429", "500", "503"},
    ("get", "/parked"): {"200", "401", "422", "429", "500", "503"},
    ("post", "/parked/{name}/replay"): {
        "202",
        "401",
        "404",
        "409",
        "422",
        "429",
        "500",
        "503",
        "507",
    },
    ("delete", "/parked/{name}"): {"204", "401", "404", "429", "500", "503"},
    ("post", "/batches"): {
        *("200", "202", "400", "401", "408", "409", "413", "415", "422", "429", "500", "502"),
        *("503", "507"),
    },
    ("get", "/batches"): {"200", "401", "422", "429", "500", "503"},
    ("get", "/batches/{uuid}"): {"200", "401", "404", "422", "429", "500", "503"},
    ("get", "/batches/{uuid}/export"): {
        *("200", "304", "401", "404", "409", "422", "429", "500", "503"),
    },
    ("get", "/batches/{uuid}/jobs"): {"200", "401", "404", "422", "429", "500", "503"},
    ("delete", "/batches/{uuid}"): {"202", "204", "401", "404", "422", "429", "500", "503"},
    ("get", "/health"): {"200", "500"},
    ("get", "/livez"): {"200"},
    ("get", "/readyz"): {"200", "503"},
    ("get", "/metrics"): {"200", "401", "429"},
    ("get", "/models"): {"200", "401", "429", "500", "503"},
    ("get", "/"): {"200"},
}


@pytest.fixture(scope="module")
def openapi(doorman: httpx.Client) -> dict[str, Any]:
    """What the service says of itself."""
    document: dict[str, Any] = doorman.get("/openapi.json").json()
    return document


def operations(openapi: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_documents_the_statuses_it_can_give(openapi: dict[str, Any]) -> None:
    assert {
        route: set(each["responses"]) for route, each in operations(openapi).items()
    } == DOCUMENTED


def test_every_answer_has_a_sentence_and_json_has_an_example(openapi: dict[str, Any]) -> None:
    for route, operation in operations(openapi).items():
        assert operation["summary"], route
        for status, response in operation["responses"].items():
            assert response["description"], (route, status)
            json = response.get("content", {}).get("application/json")
            if json and route[1] not in ("/", "/health", "/livez", "/readyz"):
                assert "example" in json or "examples" in json, (route, status)


def test_every_example_of_a_failure_stands_under_its_own_status(openapi: dict[str, Any]) -> None:
    for operation in operations(openapi).values():
        for status, response in operation["responses"].items():
            examples = response.get("content", {}).get("application/json", {}).get("examples", {})
            for code, example in examples.items():
                if code in STATUS_BY_CODE:
                    assert STATUS_BY_CODE[code] == int(status)
                    assert example["value"].get("code", "no_masks_found") == code


def test_uploads_are_documented_raw_and_as_a_form(openapi: dict[str, Any]) -> None:
    for route in (("post", "/segment"), ("post", "/segment/{resize}")):
        operation = operations(openapi)[route]
        assert {"image/*", "multipart/form-data"} <= set(operation["requestBody"]["content"])
        names = {parameter["name"] for parameter in operation["parameters"]}
        assert {"uuid", "model", "ttl_seconds", "parameters", "rle", "Prefer"} <= names
        fields = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        assert fields.keys() == (names | {"image"}) - {"Prefer", "Idempotency-Key", "resize"}
    assert {"application/json", "multipart/form-data"} <= set(
        operations(openapi)["post", "/jobs"]["requestBody"]["content"]
    )


def keywords(document: Any) -> set[str]:
    """Every key of a document, at any depth."""
    if isinstance(document, list):
        return set().union(*map(keywords, document))
    if isinstance(document, dict):
        return set(document).union(*map(keywords, document.values()))
    return set()


def test_limits_are_in_the_words_of_json_schema(openapi: dict[str, Any]) -> None:
    """Client generators and form pages know `minimum`, and pass over pydantic's `ge`."""
    assert not keywords(openapi) & {"ge", "le", "gt", "lt"}
    limit = openapi["paths"]["/jobs"]["get"]["parameters"][1]["schema"]
    assert (limit["minimum"], limit["maximum"]) == (1, 1000)


@pytest.mark.parametrize("path", ["/segment", "/jobs"])
def test_parameters_in_a_form_are_text(path: str, openapi: dict[str, Any]) -> None:
    """The page makes a file chooser of a field whose content is said to be JSON."""
    form = openapi["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["properties"]["parameters"]["anyOf"][0] == {"type": "string"}


def test_every_reference_leads_somewhere(openapi: dict[str, Any]) -> None:
    for name in re.findall(
        r'"\$ref": ?"#/components/schemas/([^"]+)"', httpx.Response(200, json=openapi).text
    ):
        assert name in openapi["components"]["schemas"]


def test_the_page_works_without_the_internet(doorman: httpx.Client) -> None:
    page = doorman.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"(?:src|href)=['\"](?:https?:)?//", page.text)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for address in re.findall(r"(?:src|href)=['\"]([^'\"]+)", page.text):
        file = doorman.get(f"/{address}")
        assert file.status_code == 200
        assert len(file.content) > 1000
    assert doorman.get("/docs/../main.py").status_code == 404
    assert doorman.get("/docs/redoc.standalone.js").status_code == 404


def test_the_root_says_what_answers_here(doorman: httpx.Client) -> None:
    assert doorman.get("/").json()["docs"] == "/docs"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/segment", 405, "method_not_allowed"),
        ("PUT", "/jobs", 405, "method_not_allowed"),
        ("POST", "/assets/a/original.webp", 405, "method_not_allowed"),
        ("GET", "/segment/", 404, "not_found"),
    ],
)
def test_routes_that_do_not_exist_fail_in_the_same_shape(
    doorman: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    response = doorman.request(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert (response.headers.get("allow") is not None) == (status == 405)


def test_examples_of_unknown_codes_are_a_fault_of_ours() -> None:
    with pytest.raises(AssertionError):
        failures("no_such_code")
