"""A test file stands beside each module: whoever changes one finds the other by its path."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_UNTESTED = 20
"""Lines of a module that needs no file of its own."""

ELSEWHERE = {
    # Assembly: every test that serves the whole goes through it
    "api/app.py": "api/test_main.py",
    "api/service.py": "api/test_service_metrics.py",
    "seg_pipeline/definitions.py": "defs/test_assets.py",
    "seg_pipeline/defs/resources.py": "defs/test_assets.py",
    "seg_pipeline/adapters/s3_client.py": "adapters/test_image_fetch.py",
    # What answers look like: tested by the requests that get them
    "api/error_examples.py": "api/test_openapi_examples.py",
    "api/schemas.py": "api/routes/test_jobs.py",
    "api/batch_schemas.py": "api/routes/test_batches.py",
    "api/views.py": "api/routes/test_jobs.py",
    "api/readiness.py": "api/routes/test_health.py",
    "api/routes/documentation.py": "api/test_openapi.py",
    # Counting and time limits: tested at a served API
    "api/metrics.py": "api/test_service_metrics.py",
    "api/middleware/observing.py": "api/test_service_metrics.py",
    "api/http_protocol.py": "api/test_connections.py",
    # Records and helpers that only what uses them can show to be right
    "seg_pipeline/jobs/leftovers.py": "defs/test_pruning.py",
    "seg_pipeline/jobs/parked_notes.py": "jobs/test_parked.py",
    "seg_pipeline/jobs/records.py": "store/test_serialization.py",
    "seg_pipeline/jobs/stored_jobs.py": "store/test_serialization.py",
    "seg_pipeline/segmenters/__init__.py": "segmenters/test_registry.py",
    "seg_pipeline/store/objects.py": "store/test_store_contract.py",
    # The client: what it does is what both of its faces are tested by
    "client/src/seg_client/__init__.py": "client/test_package.py",
    "client/src/seg_client/addresses.py": "client/test_flows.py",
    "client/src/seg_client/answers.py": "client/test_synchronous.py",
    "client/src/seg_client/batch_flows.py": "client/test_batches.py",
    "client/src/seg_client/options.py": "client/test_synchronous.py",
    "client/src/seg_client/saving.py": "client/test_synchronous.py",
    # The formats: tested by the route that offers them all
    "seg_pipeline/exports/registry.py": "api/routes/test_exports.py",
    # Changes to processes of Dagster and Celery: tested where such a process runs
    "seg_pipeline/runtime/bucket_run_logs.py": "runtime/test_run_logs.py",
    "seg_pipeline/runtime/code_server.py": "local/test_stack.py",
    "seg_pipeline/runtime/dagster_home.py": "runtime/test_literal_paths.py",
    "seg_pipeline/runtime/upkeep.py": "runtime/test_launcher.py",
    "seg_pipeline/runtime/webserver.py": "runtime/test_ui_guard.py",
    "seg_pipeline/runtime/reaching.py": "cli/test_checks_outside.py",
    # Networks: tested by what they find in pictures
    "seg_pipeline/segmenters/parity/pictures.py": "segmenters/parity/test_gate.py",
    "seg_pipeline/segmenters/sam2/upstream.py": "segmenters/sam2/test_segmenter.py",
    "seg_pipeline/segmenters/yolo/letterbox.py": "segmenters/yolo/test_segmenter.py",
    "seg_pipeline/segmenters/yolo/masks.py": "segmenters/yolo/test_segmenter.py",
    "seg_pipeline/segmenters/yolo/networks.py": "segmenters/yolo/test_turbo.py",
}
"""Modules whose tests stand elsewhere, by kind with the reason, and where."""


def modules() -> list[Path]:
    """The modules that need a test file, relative to the repository."""
    packages = ("api", "client/src/seg_client", "seg_pipeline")
    found = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    return sorted(
        path.relative_to(ROOT)
        for path in found
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_UNTESTED
    )


def place_of_tests(module: Path) -> Path:
    """`seg_pipeline/X/y.py` has `seg_pipeline_tests/X/test_y.py`; `api` and `client` have a folder
    of their own."""
    if module.parts[0] == "client":
        return Path("seg_pipeline_tests", "client", f"test_{module.name}")
    inside = module if module.parts[0] == "api" else module.relative_to("seg_pipeline")
    return Path("seg_pipeline_tests") / inside.with_name(f"test_{module.name}")


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_test_file_stands_beside_each_module(module: Path) -> None:
    elsewhere = ELSEWHERE.get(module.as_posix())
    place = Path("seg_pipeline_tests", elsewhere) if elsewhere else place_of_tests(module)
    assert (ROOT / place).is_file()


def test_every_exception_is_of_a_module_that_exists() -> None:
    assert [module for module in ELSEWHERE if not (ROOT / module).is_file()] == []


def test_tests_mirror_the_path_of_their_module() -> None:
    assert place_of_tests(Path("seg_pipeline/store/keys.py")) == Path(
        "seg_pipeline_tests/store/test_keys.py"
    )
    assert place_of_tests(Path("api/routes/jobs.py")) == Path(
        "seg_pipeline_tests/api/routes/test_jobs.py"
    )


SHARED_NAMES = {"Candidates", "Crop", "Form", "Measures"}
"""Names that SAM-2 on a GPU shares with its plain form, and with the forms of HTTP."""


def public_classes(package: str) -> Counter[str]:
    """The classes at the top of a package's modules, by name."""
    return Counter(
        node.name
        for path in (ROOT / package).rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )


def test_no_two_classes_of_the_service_share_a_name() -> None:
    """One name for one thing: whoever reads it need not ask from where it was imported. The client
    has names of its own for what it gets: it knows nothing of the service."""
    counts = public_classes("api") + public_classes("seg_pipeline")
    assert {name for name, count in counts.items() if count > 1} == SHARED_NAMES
