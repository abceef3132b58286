"""What tests of commands share that ask a served API."""

from pathlib import Path

import pytest

from seg_pipeline.store import Store, open_store
from seg_pipeline_tests.api.serving import api_settings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store of the served API."""
    return open_store(api_settings(tmp_path))
