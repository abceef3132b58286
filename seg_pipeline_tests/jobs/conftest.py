"""What the tests of jobs share."""

import pytest

from seg_pipeline.jobs.repository import JobRepository
from seg_pipeline.store import Store


@pytest.fixture
def repository(store: Store) -> JobRepository:
    return JobRepository(store)
