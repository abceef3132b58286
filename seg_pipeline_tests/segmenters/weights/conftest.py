"""A host of weights, and no time lost between two tries."""

from collections.abc import Iterator

import pytest

from seg_pipeline.segmenters.weights import download
from seg_pipeline_tests.segmenters.file_hosts import FileHost, make_checkpoint, serving


@pytest.fixture
def host() -> Iterator[FileHost]:
    with serving(make_checkpoint()) as host:
        yield host


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.01, 0.01, 0.01))
