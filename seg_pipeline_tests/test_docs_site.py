"""The documentation site builds without a warning, its reference says what the code says, and a
browser that shows it asks no other host."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from api.app import create_app
from api.error_responses import STATUS_BY_CODE
from scripts.docs_reference import (
    api_page,
    assets_page,
    errors_page,
    metrics_page,
    settings_page,
)
from scripts.docs_site import linked_files, with_links_of_site
from seg_pipeline.pipeline.stage_names import StageName
from seg_pipeline.settings import Settings

ROOT = Path(__file__).parent.parent
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\s\">]+)|<link\b([^>]+)>")
NOT_LOADED = ("canonical", "next", "prev")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a site that was built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def loaded(page: str) -> list[str]:
    """The addresses that a browser asks by itself to show a page."""
    links = [(src, link) for src, link in LOADED.findall(page)]
    of_links = [link for _, link in links if not any(f"rel={rel}" in link for rel in NOT_LOADED)]
    hrefs = [found for link in of_links for found in re.findall(r"href=\"?([^\s\">]+)", link)]
    return [src for src, _ in links if src] + hrefs


@pytest.mark.process
def test_a_page_loads_nothing_from_another_host(site: Path) -> None:
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    assert len(pages) > 80
    addresses = {address for page in pages for address in loaded(page)}
    assert any(address.endswith(".css") for address in addresses)
    assert any(address.endswith(".js") for address in addresses)
    assert [address for address in addresses if "//" in address] == []


@pytest.mark.process
def test_a_style_sheet_loads_nothing_from_another_host(site: Path) -> None:
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert [
        found for style in styles for found in re.findall(r"url\(\W*(?:https?:)?//", style)
    ] == []


@pytest.mark.process
def test_every_page_of_the_site_is_found_by_its_search(site: Path) -> None:
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    for place in ("tutorial.html", "reference/settings.html", "decisions/01-fetch-before"):
        assert f'"{place}' in index, place


def test_an_address_of_another_host_would_be_seen() -> None:
    assert loaded('<script src="https://unpkg.com/a.js"></script>') == ["https://unpkg.com/a.js"]
    assert loaded("<link rel=stylesheet href=//fonts.example/a.css>") == ["//fonts.example/a.css"]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_in_the_reference(name: str) -> None:
    description = " ".join((Settings.model_fields[name].description or "").split())
    assert re.search(rf"^\| `{name.upper()}` \| .*{re.escape(description)}", settings_page(), re.M)


def test_every_route_is_in_the_reference() -> None:
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    assert set(re.findall(r"^## `(.+)`$", api_page(), flags=re.MULTILINE)) == routes


def test_every_code_is_in_the_reference_with_its_status_and_whose_fault_it_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \| .+ \|$", errors_page(), re.MULTILINE)
    assert {code: int(status) for code, status, _ in rows} == STATUS_BY_CODE
    faults = {code: fault for code, _, fault in rows}
    assert (faults["truncated_image"], faults["store_full"]) == ("client", "ours")


def test_every_stage_is_among_the_assets_with_what_it_is_made_from() -> None:
    page = assets_page()
    assert all(f"## `{name}`" in page for name in StageName)
    assert "Made from `queue_messages`, `uploads`." in page


def test_metrics_stand_by_the_names_that_prometheus_knows() -> None:
    names = set(re.findall(r"^\| `(\w+)`", metrics_page(), flags=re.MULTILINE))
    runbook = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `(seg_\w+)", runbook, flags=re.MULTILINE))
    assert known == names


def test_links_lead_to_where_the_site_has_a_file() -> None:
    text = "[a](../README.md#x) [b](pictures.md) [c](../api/app.py) [d](https://example.com)"
    assert with_links_of_site(text, "docs/exports.md") == (
        "[a](repository/README.md#x) [b](pictures.md) [c](repository/api/app.py.md)"
        " [d](https://example.com)"
    )
    assert with_links_of_site("[e](docs/docker.md)", "README.md") == "[e](../docker.md)"


def test_a_link_in_code_stays_as_it_is() -> None:
    text = "```md\n[a](../README.md)\n```\n"
    assert with_links_of_site(text, "docs/exports.md") == text


def test_files_that_documents_link_to_are_followed() -> None:
    assert {"README.md", "client/README.md", "seg_pipeline/domain.py"} <= set(
        linked_files("docs/index.md")
    )
