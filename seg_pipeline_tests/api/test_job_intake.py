"""Ids that are made here."""

from itertools import pairwise
from uuid import RFC_4122, UUID

from api.job_intake import uuid7
from seg_pipeline.domain import check_uuid


def test_made_ids_are_rfc_9562s_version_7_and_fit_everywhere() -> None:
    made = [uuid7() for _ in range(200)]
    assert len(set(made)) == 200
    for one in made:
        assert check_uuid(one) == one
        assert (UUID(one).version, UUID(one).variant) == (7, RFC_4122)


def test_made_ids_sort_by_time() -> None:
    milliseconds = [UUID(uuid7()).int >> 80 for _ in range(200)]
    assert all(one <= next_one for one, next_one in pairwise(milliseconds))
